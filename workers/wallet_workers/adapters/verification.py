"""`chain.verify`: everything that a node says of a block is checked against the block's hash.

It stands between `execution_api` and an endpoint: each answer is checked and then handed on, so that what is read is
what was checked. What does not fit is a fault of the endpoint, `FORGED`, and the next one is asked.

- **Any block**: its hash is recomputed from its header; by that number, timestamp, parent, bloom and roots are as true
  as the hash.
- **A block with its transactions**: the transactions' root, each transaction's hash, each sender, and the withdrawals'
  root are recomputed. So no transfer can be left out, added, or be said to be from or to somebody else, and no
  withdrawal either.
- **A receipt**: the receipts of the whole block are fetched, and their root recomputed; then the one asked for is
  handed on, with its status and logs. Its place (hashes, index of each log, created contract) is compared with the
  block's.
- **Logs of a block**: taken from those receipts, and the node is not asked for them: an empty answer could not be told
  from a lie. Whoever asks first looks at the bloom, which the hash covers, so blocks without candidates cost nothing.
- **Logs of a range of blocks**, which an audit asks for, are handed on as they came: no hash stands for a range.

Receipts are fetched for blocks with candidates only, in one request where the node has `eth_getBlockReceipts`, else one
by one.

What it does not say: *whether the hash is on the chain*. Nothing here checks the consensus, so a node that invents a
whole branch, with every hash right, is found out by a quorum only. Call traces stand for no hash: ETH moved inside
contracts rests on the node's word. And a fork whose headers have further fields is told as forged, until a release
knows it.

It is work for a processor: it runs in a thread, so that locks are renewed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from wallet_workers.adapters.commitments import (
    Forged,
    SealedBlock,
    SealedHeader,
    SealedLog,
    SealedReceipt,
    bytes_hash,
    created_contract,
    header_hash,
    quantity,
    receipt_bytes,
    transaction_bytes,
    transaction_sender,
    trie_root,
    withdrawal_bytes,
)
from wallet_workers.adapters.execution_api import Ask
from wallet_workers.adapters.json_rpc import Answer, Answered, EndpointFault, Fault, RpcAnswer

BLOCKS_REMEMBERED_MAX = 64
"""Checked blocks whose roots, and receipts where they were needed, are kept: what one append takes."""
_RECEIPTS_AT_ONCE_MAX = 8

T = TypeVar("T")


class _RawAnswer(RpcAnswer[msgspec.Raw], gc=False):
    """An answer whose result, `null` included, stays as it came."""

    # msgspec reads no raw text where there may be something else; a default is not read
    result: msgspec.Raw = msgspec.UNSET  # type: ignore[assignment]  # an answer may have an error instead


_RAW: Answer[msgspec.Raw] = msgspec.json.Decoder(_RawAnswer)
_RAWS: Answer[tuple[msgspec.Raw, ...]] = msgspec.json.Decoder(RpcAnswer[tuple[msgspec.Raw, ...]])
_HEADER = msgspec.json.Decoder(SealedHeader)
_BLOCK = msgspec.json.Decoder(SealedBlock)
_RECEIPT = msgspec.json.Decoder(SealedReceipt)


@dataclass
class _Known:
    """A block whose transactions were checked."""

    receipts_root: str
    transactions: tuple[str, ...]
    """Hashes, in the block's order."""
    contracts: tuple[str | None, ...]
    """What each of them creates."""
    receipts: Mapping[str, tuple[msgspec.Raw, SealedReceipt]] | None = None
    """By transaction, once they were checked."""
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)


class Verification:
    """What was checked of late, and the checks. What it knows is known by hash, so it serves every endpoint."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def over(self, ask: Ask) -> Ask:
        """The same endpoint, believed no further than the hashes go."""
        return _Checked(self, ask)

    async def check_block(self, raw: msgspec.Raw, with_transactions: bool) -> SealedHeader:
        """Check a block as a node gave it. Raises Forged, msgspec.MsgspecError."""
        if not with_transactions:
            header = _HEADER.decode(raw)
            _check_header(header)
            return header
        block, known = await asyncio.to_thread(_checked_block, raw)
        self._known[block.hash] = known
        if len(self._known) > BLOCKS_REMEMBERED_MAX:
            self._known.popitem(last=False)
        return block

    async def receipts(self, ask: Ask, block_hash: str) -> Mapping[str, tuple[msgspec.Raw, SealedReceipt]]:
        """Every receipt of that block, by transaction, in its order. Raises Forged, EndpointFault."""
        if block_hash not in self._known:
            raw = (await _ask_raw(ask, "eth_getBlockByHash", (block_hash, True))).result
            if raw is None:
                raise EndpointFault(Fault.ABSENT, f"the node does not have block {block_hash}")
            found = await self.check_block(raw, with_transactions=True)
            if found.hash != block_hash:
                raise EndpointFault(Fault.OTHER_BLOCK, f"block {block_hash} was asked for, and {found.hash} given")
        known = self._known[block_hash]
        async with known.fetching:
            if known.receipts is None:
                raws = await _fetch_receipts(ask, block_hash, known.transactions)
                known.receipts = await asyncio.to_thread(_checked_receipts, raws, block_hash, known)
        return known.receipts


class _Checked:
    """`Ask` over another one."""

    def __init__(self, verification: Verification, ask: Ask) -> None:
        self._verification = verification
        self._ask = ask

    async def __call__(self, method: str, params: Sequence[Any], answer: Answer[T], /) -> Answered[T]:
        try:
            match method:
                case "eth_getBlockByNumber" | "eth_getBlockByHash":
                    return await self._block(method, params, answer)
                case "eth_getTransactionReceipt":
                    return await self._receipt(params, answer)
                case "eth_getLogs" if "blockHash" in params[0]:
                    return await self._logs(params[0], answer)
                case _:
                    return await self._ask(method, params, answer)
        except Forged as error:
            raise EndpointFault(Fault.FORGED, f"{method}: {error}") from None
        except msgspec.ValidationError as error:
            raise EndpointFault(Fault.FORGED, f"{method}: not all that the hash stands for: {error}") from None

    async def _block(self, method: str, params: Sequence[Any], answer: Answer[T]) -> Answered[T]:
        answered = await _ask_raw(self._ask, method, params)
        if answered.result is None:
            return Answered(None)
        await self._verification.check_block(answered.result, with_transactions=params[1])
        return Answered(_read(answered.result, answer))

    async def _receipt(self, params: Sequence[Any], answer: Answer[T]) -> Answered[T]:
        """The node says in which block the transaction is; that block's receipts say whether it is so."""
        answered = await _ask_raw(self._ask, "eth_getTransactionReceipt", params)
        if answered.result is None:
            return Answered(None)
        said = _RECEIPT.decode(answered.result)
        receipts = await self._verification.receipts(self._ask, said.block_hash)
        if params[0] not in receipts:
            raise Forged(f"transaction {params[0]} is said to be in block {said.block_hash}, which does not hold it")
        return Answered(_read(receipts[params[0]][0], answer))

    async def _logs(self, wanted: Mapping[str, Any], answer: Answer[T]) -> Answered[T]:
        receipts = await self._verification.receipts(self._ask, wanted["blockHash"])
        found = [log for _, receipt in receipts.values() for log in receipt.logs if _matches(log, wanted)]
        return Answered(_read(msgspec.Raw(msgspec.json.encode(found)), answer))


async def _ask_raw(ask: Ask, method: str, params: Sequence[Any]) -> Answered[msgspec.Raw]:
    answered = await ask(method, params, _RAW)
    if answered.result is None or bytes(answered.result) == b"null":
        return Answered(None)
    return answered


def _read(raw: msgspec.Raw, answer: Answer[T]) -> T | None:
    """What was checked, in the form that was asked for."""
    decoded = answer.decode(b'{"id":0,"result":' + bytes(raw) + b"}").result
    return None if isinstance(decoded, msgspec.UnsetType) else decoded


def _matches(log: SealedLog, wanted: Mapping[str, Any]) -> bool:
    """The filter of `eth_getLogs`."""
    addresses = wanted.get("address")
    if addresses is not None and log.address not in ([addresses] if isinstance(addresses, str) else addresses):
        return False
    topics: Sequence[Any] = wanted.get("topics", ())
    return len(topics) <= len(log.topics) and all(
        each is None or found in ([each] if isinstance(each, str) else each)
        for each, found in zip(topics, log.topics, strict=False)
    )


def _check_header(header: SealedHeader) -> None:
    found = header_hash(header)
    if found != header.hash:
        raise Forged(f"block {header.number} is said to have the hash {header.hash}, and its header has {found}")


def _checked_block(raw: msgspec.Raw) -> tuple[SealedBlock, _Known]:
    block = _BLOCK.decode(raw)
    _check_header(block)
    encoded = [transaction_bytes(each) for each in block.transactions]
    for transaction, content in zip(block.transactions, encoded, strict=True):
        if bytes_hash(content) != transaction.hash:
            raise Forged(f"transaction {transaction.hash} has another hash")
        if transaction_sender(transaction) != transaction.from_:
            raise Forged(f"transaction {transaction.hash} is not from {transaction.from_}")
    if trie_root(encoded) != block.transactions_root:
        raise Forged(f"the transactions of block {block.hash} are not those of its header")
    if block.withdrawals_root is None:
        if block.withdrawals:
            raise Forged(f"block {block.hash} is of a fork without withdrawals, and shows some")
    elif trie_root([withdrawal_bytes(each) for each in block.withdrawals or ()]) != block.withdrawals_root:
        raise Forged(f"the withdrawals of block {block.hash} are not those of its header")
    contracts = tuple(
        created_contract(each.from_, each.nonce) if each.to is None else None for each in block.transactions
    )
    return block, _Known(block.receipts_root, tuple(each.hash for each in block.transactions), contracts)


async def _fetch_receipts(ask: Ask, block_hash: str, transactions: Sequence[str]) -> Sequence[msgspec.Raw]:
    try:
        answered = await ask("eth_getBlockReceipts", (block_hash,), _RAWS)
    except EndpointFault as fault:
        if fault.fault is not Fault.RPC_ERROR:  # nodes without the method say so by many codes
            raise
    else:
        if answered.result is not None:
            return answered.result
    gate = asyncio.Semaphore(_RECEIPTS_AT_ONCE_MAX)

    async def fetch(transaction: str) -> msgspec.Raw:
        async with gate:
            raw = (await _ask_raw(ask, "eth_getTransactionReceipt", (transaction,))).result
        if raw is None:
            raise EndpointFault(Fault.ABSENT, f"the node does not have a receipt of transaction {transaction}")
        return raw

    return await asyncio.gather(*(fetch(each) for each in transactions))


def _checked_receipts(
    raws: Sequence[msgspec.Raw], block_hash: str, known: _Known
) -> Mapping[str, tuple[msgspec.Raw, SealedReceipt]]:
    receipts = [_RECEIPT.decode(raw) for raw in raws]
    if (
        len(receipts) != len(known.transactions)
        or trie_root([receipt_bytes(each) for each in receipts]) != known.receipts_root
    ):
        raise Forged(f"the receipts of block {block_hash} are not those of its header")
    first_log = 0
    for receipt, transaction, contract in zip(receipts, known.transactions, known.contracts, strict=True):
        if (receipt.transaction_hash, receipt.block_hash) != (transaction, block_hash):
            raise Forged(f"a receipt of block {block_hash} is said to be another transaction's or block's")
        if contract is not None and receipt.contract_address != contract:
            raise Forged(f"transaction {transaction} creates {contract}, not {receipt.contract_address}")
        for index, log in enumerate(receipt.logs, start=first_log):
            place = (log.transaction_hash, log.block_hash, quantity(log.log_index))
            if place != (transaction, block_hash, index):
                raise Forged(f"log {index} of block {block_hash} is said to have another place")
        first_log += len(receipt.logs)
    return {each.transaction_hash: (raw, each) for raw, each in zip(raws, receipts, strict=True)}
