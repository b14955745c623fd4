"""The few methods of Ethereum's execution API that the wallet asks, and the checks that each answer must pass.

An answer goes straight from the wire into `wallet_core.blocks`; what it says is compared with what was asked, and
anything that does not fit is a fault of the endpoint, never "no deposits":

- null for a block or a receipt, and an error that says "not found": `ABSENT`. The node may be late, or on another
  branch;
- another number than asked for, a hash, number or address not of the wire's form, a missing field: `INCONSISTENT`;
- a receipt that names another block than asked for: `ABSENT` (on that node's branch the transaction is elsewhere);
- a receipt without `status` (a block before Byzantium, 2017, says only how the state looked afterwards):
  `INCONSISTENT`. A wallet cannot start that far back;
- no finalized block (null, or an error that says that the tag or the block is not known): nothing is final yet;
- a finalized block above the tip, or another one at the tip's height: `INCONSISTENT`. Two nodes behind one URL
  disagree.

The finalized block is asked for before the tip, so that on one node it is never above it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from wallet_core.blocks import Block, Head, Header, Receipt, Transaction
from wallet_workers.adapters.json_rpc import NOT_FOUND_CODES, Answer, Answered, EndpointFault, Fault, RpcAnswer

_HASH = re.compile(r"0x[0-9a-f]{64}")
_QUANTITY = re.compile(r"0x[0-9a-f]{1,64}")
_HASH_LENGTH = 66
_ADDRESS_LENGTH = 42
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


class _WireBlock(_WireHeader, rename="camel", gc=False):
    transactions: tuple[Transaction, ...]


class _WireReceipt(msgspec.Struct, rename="camel", gc=False):
    transaction_hash: str
    block_hash: str
    status: str | None = None


_CHAIN_ID: Answer[str] = msgspec.json.Decoder(RpcAnswer[str])
_HEADER: Answer[_WireHeader] = msgspec.json.Decoder(RpcAnswer[_WireHeader])
_BLOCK: Answer[_WireBlock] = msgspec.json.Decoder(RpcAnswer[_WireBlock])
_RECEIPT: Answer[_WireReceipt] = msgspec.json.Decoder(RpcAnswer[_WireReceipt])


class Ask(Protocol):
    """One question to one endpoint."""

    async def __call__(self, method: str, params: Sequence[object], answer: Answer[T], /) -> Answered[T]:
        """Raises EndpointFault."""


async def chain_id(ask: Ask) -> int:
    """`eth_chainId` (EIP-695)."""
    return _quantity(_present(await ask("eth_chainId", (), _CHAIN_ID), "a chain id"), "chain id")


async def head(ask: Ask, with_finalized: bool) -> Head:
    """The tip, and the finalized block where it is asked for and there is one."""
    finalized = await _finalized(ask) if with_finalized else None
    tip = _header(_present(await ask("eth_getBlockByNumber", ("latest", False), _HEADER), "a newest block"))
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
    return _numbered(_header(_present(wire, f"block {number}")), number)


async def block(ask: Ask, number: int) -> Block:
    """One canonical block with its transactions."""
    wire = _present(await ask("eth_getBlockByNumber", (hex(number), True), _BLOCK), f"block {number}")
    _check_transactions(wire.transactions, number)
    return Block(_numbered(_header(wire), number), wire.transactions)


async def receipt(ask: Ask, transaction_hash: str, block_hash: str) -> Receipt:
    """The outcome of a transaction in that very block."""
    subject = f"a receipt of transaction {transaction_hash}"
    wire = _present(await ask("eth_getTransactionReceipt", (transaction_hash,), _RECEIPT), subject)
    if wire.transaction_hash != transaction_hash:
        raise EndpointFault(Fault.INCONSISTENT, f"{subject} was asked for, and another's given")
    if wire.block_hash != block_hash:
        _check_hash(wire.block_hash)
        raise EndpointFault(Fault.ABSENT, f"{subject} in block {block_hash} was asked for; it is in {wire.block_hash}")
    if wire.status is None:
        raise EndpointFault(Fault.INCONSISTENT, f"{subject} has no status; blocks before Byzantium cannot be served")
    status = _quantity(wire.status, "status")
    if status not in (0, 1):
        raise EndpointFault(Fault.INCONSISTENT, f"{subject} has the unknown status {status}")
    return Receipt(wire.transaction_hash, wire.block_hash, succeeded=status == 1)


async def _finalized(ask: Ask) -> Header | None:
    try:
        answered = await ask("eth_getBlockByNumber", ("finalized", False), _HEADER)
    except EndpointFault as fault:
        says_so = fault.rpc_code == _SERVER_ERROR_CODE and _NO_FINALIZED_TEXT in str(fault)
        if says_so or fault.rpc_code in _NO_FINALIZED_CODES:
            return None
        raise
    return None if answered.result is None else _header(answered.result)


def _present(answered: Answered[T], subject: str) -> T:
    if answered.result is None:
        raise EndpointFault(Fault.ABSENT, f"the node does not have {subject}")
    return answered.result


def _header(wire: _WireHeader) -> Header:
    _check_hash(wire.hash)
    _check_hash(wire.parent_hash)
    number, timestamp = _quantity(wire.number, "block number"), _quantity(wire.timestamp, "timestamp")
    return Header(number, wire.hash, wire.parent_hash, timestamp)


def _numbered(found: Header, number: int) -> Header:
    if found.number != number:
        raise EndpointFault(Fault.INCONSISTENT, f"block {number} was asked for, and block {found.number} given")
    return found


def _check_transactions(transactions: Sequence[Transaction], number: int) -> None:
    """Lengths only: there are hundreds, and the digits of those that are ours are checked when they match."""
    hashes = {len(each.hash) for each in transactions}
    addresses = {len(each.from_) for each in transactions} | {
        len(each.to) for each in transactions if each.to is not None
    }
    if not (hashes <= {_HASH_LENGTH} and addresses <= {_ADDRESS_LENGTH}):
        raise EndpointFault(Fault.INCONSISTENT, f"block {number} has a transaction with a malformed hash or address")


def _check_hash(text: str) -> None:
    if _HASH.fullmatch(text) is None:
        raise EndpointFault(Fault.INCONSISTENT, "a hash is not 0x and 64 lower-case hex digits")


def _quantity(text: str, subject: str) -> int:
    if _QUANTITY.fullmatch(text) is None:
        raise EndpointFault(Fault.INCONSISTENT, f"a {subject} is not a hex quantity")
    return int(text, 16)
