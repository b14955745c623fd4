"""The few methods of Ethereum's execution API that the wallet asks, and the checks that each answer must pass.

An answer goes straight from the wire into `wallet_core.blocks`; what it says is compared with what was asked, and
anything that does not fit is a fault of the endpoint, never "no deposits":

- null for a block or a receipt, and an error that says "not found": `ABSENT`. The node may be late, or on another
  branch;
- another number than asked for: `OTHER_BLOCK`; a hash, number or address not of the wire's form, a missing field:
  `INCONSISTENT`;
- a receipt that names another block than asked for: `OTHER_BLOCK` (on that node's branch the transaction is elsewhere);
- a receipt without `status` (a block before Byzantium, 2017, says only how the state looked afterwards):
  `INCONSISTENT`. A wallet cannot start that far back;
- no finalized block (null, or an error that says that the tag or the block is not known): nothing is final yet;
- a header whose withdrawals root is there and whose withdrawals are not (EIP-4895): `INCONSISTENT`. Roots are compared
  with `chain.verify` only: on some chains the field holds something else;
- logs of another block than asked for, or a receipt's logs of another transaction: `OTHER_BLOCK`; a log of a contract
  or topic that was not asked for, taken back (`removed`), or not in ascending order: `INCONSISTENT`; one that the
  header's bloom excludes: `BLOOM`;
- no logs at all although the bloom admits them: nothing, as a rule, but some nodes say the same of a block that they do
  not know. So the same endpoint is asked whether it has the block, and then for the logs once more;
- a finalized block above the tip, or another one at the tip's height: `INCONSISTENT`. Two nodes behind one URL
  disagree.

The finalized block is asked for before the tip, so that on one node it is never above it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import msgspec

from wallet_core.blocks import Block, Head, Header, Log, Receipt, Transaction, Withdrawal
from wallet_core.bloom import check_admitted
from wallet_core.errors import NodeInconsistent
from wallet_workers.adapters.json_rpc import NOT_FOUND_CODES, Answer, Answered, EndpointFault, Fault, RpcAnswer

_HASH = re.compile(r"0x[0-9a-f]{64}")
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_BLOOM = re.compile(r"0x[0-9a-f]{512}")
_DATA = re.compile(r"0x(?:[0-9a-f]{2})*")
_QUANTITY = re.compile(r"0x[0-9a-f]{1,64}")
_HASH_LENGTH = 66
_ADDRESS_LENGTH = 42
_TOPICS_MAX = 4
_NO_FINALIZED_CODES = NOT_FOUND_CODES | {-32601, -32602}
"""Also: nodes that do not know the tag."""
_SERVER_ERROR_CODE = -32000
"""What geth answers where it has nothing more precise to say; before 1.16 for a finalized block too that it does not
have."""
_NO_FINALIZED_TEXT = "finalized block not found"

T = TypeVar("T")


class _WireHeader(msgspec.Struct, rename="camel", gc=False):
    number: str
    hash: str
    parent_hash: str
    timestamp: str
    logs_bloom: str


class _WireWithdrawal(msgspec.Struct, rename="camel", gc=False):
    index: str
    validator_index: str
    address: str
    amount: str
    """In gwei."""


class _WireBlock(_WireHeader, rename="camel", gc=False):
    transactions: tuple[Transaction, ...]
    withdrawals_root: str | None = None
    withdrawals: tuple[_WireWithdrawal, ...] | None = None


class _WireLog(msgspec.Struct, rename="camel", gc=False):
    address: str
    topics: tuple[str, ...]
    data: str
    block_hash: str
    transaction_hash: str
    log_index: str
    removed: bool = False


class _WireReceipt(msgspec.Struct, rename="camel", gc=False):
    transaction_hash: str
    block_hash: str
    logs: tuple[_WireLog, ...]
    status: str | None = None
    contract_address: str | None = None


_CHAIN_ID: Answer[str] = msgspec.json.Decoder(RpcAnswer[str])
_HEADER: Answer[_WireHeader] = msgspec.json.Decoder(RpcAnswer[_WireHeader])
_BLOCK: Answer[_WireBlock] = msgspec.json.Decoder(RpcAnswer[_WireBlock])
_LOGS: Answer[tuple[_WireLog, ...]] = msgspec.json.Decoder(RpcAnswer[tuple[_WireLog, ...]])
_RECEIPT: Answer[_WireReceipt] = msgspec.json.Decoder(RpcAnswer[_WireReceipt])


class Ask(Protocol):
    """One question to one endpoint."""

    async def __call__(self, method: str, params: Sequence[object], answer: Answer[T], /) -> Answered[T]:
        """Raises EndpointFault."""


async def chain_id(ask: Ask) -> int:
    """`eth_chainId` (EIP-695)."""
    return quantity(present(await ask("eth_chainId", (), _CHAIN_ID), "a chain id"), "chain id")


async def head(ask: Ask, with_finalized: bool) -> Head:
    """The tip, and the finalized block where it is asked for and there is one."""
    finalized = await _finalized(ask) if with_finalized else None
    tip = _header(present(await ask("eth_getBlockByNumber", ("latest", False), _HEADER), "a newest block"))
    if finalized is not None and (
        finalized.number > tip.number or (finalized.number == tip.number and finalized.hash != tip.hash)
    ):
        raise EndpointFault(
            Fault.INCONSISTENT,
            f"block {finalized.number} {finalized.hash} is said to be final, and block {tip.number} {tip.hash} the tip",
        )
    return Head(tip, finalized)


async def header(ask: Ask, number: int) -> Header:
    """One canonical block's header."""
    wire = await ask("eth_getBlockByNumber", (hex(number), False), _HEADER)
    return _numbered(_header(present(wire, f"block {number}")), number)


async def block(ask: Ask, number: int) -> Block:
    """One canonical block with its transactions."""
    wire = present(await ask("eth_getBlockByNumber", (hex(number), True), _BLOCK), f"block {number}")
    _check_transactions(wire.transactions, number)
    return Block(_numbered(_header(wire), number), wire.transactions, _withdrawals(wire, number))


async def logs(ask: Ask, of_block: Header, contracts: Collection[str], topic: str) -> Sequence[Log]:
    """What these contracts (lower-case hex) logged with this first topic in that very block."""
    found = await _logs(ask, of_block, contracts, topic)
    if not found:
        subject = f"block {of_block.number} {of_block.hash}"
        wire = present(await ask("eth_getBlockByHash", (of_block.hash, False), _HEADER), subject)
        if wire.hash != of_block.hash:
            raise EndpointFault(Fault.OTHER_BLOCK, f"{subject} was asked for, and block {wire.hash} given")
        found = await _logs(ask, of_block, contracts, topic)
    return found


async def receipt(ask: Ask, transaction_hash: str, block_hash: str) -> Receipt:
    """The outcome of a transaction in that very block."""
    subject = f"a receipt of transaction {transaction_hash}"
    wire = present(await ask("eth_getTransactionReceipt", (transaction_hash,), _RECEIPT), subject)
    if wire.transaction_hash != transaction_hash:
        raise EndpointFault(Fault.INCONSISTENT, f"{subject} was asked for, and another's given")
    if wire.block_hash != block_hash:
        _check_hash(wire.block_hash)
        raise EndpointFault(
            Fault.OTHER_BLOCK, f"{subject} in block {block_hash} was asked for; it is in {wire.block_hash}"
        )
    if wire.status is None:
        raise EndpointFault(Fault.INCONSISTENT, f"{subject} has no status; blocks before Byzantium cannot be served")
    status = quantity(wire.status, "status")
    if status not in (0, 1):
        raise EndpointFault(Fault.INCONSISTENT, f"{subject} has the unknown status {status}")
    if wire.contract_address is not None:
        check_address(wire.contract_address)
    own_logs = _read_logs(wire.logs, subject)
    if any((log.block_hash, log.transaction_hash) != (block_hash, transaction_hash) for log in own_logs):
        raise EndpointFault(Fault.OTHER_BLOCK, f"{subject} has logs of another transaction or block")
    return Receipt(
        wire.transaction_hash,
        wire.block_hash,
        succeeded=status == 1,
        logs=own_logs,
        contract_address=wire.contract_address,
    )


async def _logs(ask: Ask, of_block: Header, contracts: Collection[str], topic: str) -> Sequence[Log]:
    asked = {"blockHash": of_block.hash, "address": sorted(contracts), "topics": [topic]}
    subject = f"logs of block {of_block.number} {of_block.hash}"
    wires = present(await ask("eth_getLogs", (asked,), _LOGS), subject)
    found = _read_logs(wires, subject)
    for log in found:
        if log.block_hash != of_block.hash:
            raise EndpointFault(Fault.OTHER_BLOCK, f"{subject} were asked for, and one of {log.block_hash} given")
        if log.address not in contracts or log.topics[:1] != (topic,):
            raise EndpointFault(Fault.INCONSISTENT, f"among the {subject} is one that was not asked for")
    try:
        check_admitted(of_block, found)
    except NodeInconsistent as error:
        raise EndpointFault(Fault.BLOOM, str(error)) from None
    return found


def _read_logs(wires: tuple[_WireLog, ...], subject: str) -> tuple[Log, ...]:
    found = tuple([_log(wire, subject) for wire in wires])
    if any(later.index <= earlier.index for earlier, later in pairwise(found)):
        raise EndpointFault(Fault.INCONSISTENT, f"the logs in {subject} are not in order")
    return found


def _log(wire: _WireLog, subject: str) -> Log:
    for text in (wire.block_hash, wire.transaction_hash, *wire.topics):
        _check_hash(text)
    check_address(wire.address)
    if wire.removed or len(wire.topics) > _TOPICS_MAX or _DATA.fullmatch(wire.data) is None:
        raise EndpointFault(Fault.INCONSISTENT, f"a malformed or removed log in {subject}")
    index = quantity(wire.log_index, "log index")
    return Log(wire.address, wire.topics, wire.data, wire.block_hash, wire.transaction_hash, index)


def _withdrawals(wire: _WireBlock, number: int) -> tuple[Withdrawal, ...]:
    if wire.withdrawals is None:
        if wire.withdrawals_root is not None:
            raise EndpointFault(Fault.INCONSISTENT, f"block {number} has withdrawals, and they are left out")
        return ()
    for each in wire.withdrawals:
        check_address(each.address)
    return tuple(
        [
            Withdrawal(
                quantity(each.index, "withdrawal's index"),
                quantity(each.validator_index, "validator's index"),
                each.address,
                quantity(each.amount, "withdrawal's amount"),
            )
            for each in wire.withdrawals
        ]
    )


async def _finalized(ask: Ask) -> Header | None:
    try:
        answered = await ask("eth_getBlockByNumber", ("finalized", False), _HEADER)
    except EndpointFault as fault:
        says_so = fault.rpc_code == _SERVER_ERROR_CODE and _NO_FINALIZED_TEXT in str(fault)
        if says_so or fault.rpc_code in _NO_FINALIZED_CODES:
            return None
        raise
    return None if answered.result is None else _header(answered.result)


def present(answered: Answered[T], subject: str) -> T:
    """What was answered. Raises EndpointFault where it is null."""
    if answered.result is None:
        raise EndpointFault(Fault.ABSENT, f"the node does not have {subject}")
    return answered.result


def _header(wire: _WireHeader) -> Header:
    _check_hash(wire.hash)
    _check_hash(wire.parent_hash)
    number, timestamp = quantity(wire.number, "block number"), quantity(wire.timestamp, "timestamp")
    if _BLOOM.fullmatch(wire.logs_bloom) is None:
        raise EndpointFault(Fault.BLOOM, f"the logs bloom of block {number} is not 0x and 512 lower-case hex digits")
    return Header(number, wire.hash, wire.parent_hash, timestamp, wire.logs_bloom)


def _numbered(found: Header, number: int) -> Header:
    if found.number != number:
        raise EndpointFault(Fault.OTHER_BLOCK, f"block {number} was asked for, and block {found.number} given")
    return found


def _check_transactions(transactions: Sequence[Transaction], number: int) -> None:
    """Lengths only: there are hundreds, and the digits of those that are ours are checked when they match."""
    hashes = {len(each.hash) for each in transactions}
    addresses = {len(each.from_) for each in transactions} | {
        len(each.to) for each in transactions if each.to is not None
    }
    if not (hashes <= {_HASH_LENGTH} and addresses <= {_ADDRESS_LENGTH}):
        raise EndpointFault(Fault.INCONSISTENT, f"block {number} has a transaction with a malformed hash or address")


def check_address(text: str) -> None:
    """Raises EndpointFault where it is not of the wire's form."""
    if _ADDRESS.fullmatch(text) is None:
        raise EndpointFault(Fault.INCONSISTENT, "an address is not 0x and 40 lower-case hex digits")


def _check_hash(text: str) -> None:
    if _HASH.fullmatch(text) is None:
        raise EndpointFault(Fault.INCONSISTENT, "a hash is not 0x and 64 lower-case hex digits")


def quantity(text: str, subject: str) -> int:
    """The number that a hex quantity stands for. Raises EndpointFault where it is none."""
    if _QUANTITY.fullmatch(text) is None:
        raise EndpointFault(Fault.INCONSISTENT, f"a {subject} is not a hex quantity")
    return int(text, 16)
