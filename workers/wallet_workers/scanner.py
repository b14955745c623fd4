"""Finding the deposits in a range of blocks.

The order is the promise: fetch the blocks, *then* read the address feed up to its last stable end, *then* match.
Whoever pays an address has seen its record, so the record lies below that end, and no deposit to a published address
can be missed. Receipts are fetched for the hits only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from wallet_core.addresses import Address, parse_address
from wallet_core.blocks import Block, Receipt, Transaction
from wallet_core.chain import BlockRef, WindowBlock, validate_links
from wallet_core.checkpoint import SyncState
from wallet_core.deposits import deposits_of_block, may_be_deposit
from wallet_core.matching import AddressSet
from wallet_core.messages import TransactionAsset
from wallet_core.ports import AddressFeed, Node
from wallet_core.settings import SyncSettings
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus

REQUESTS_AT_ONCE_MAX = 8

_T = TypeVar("_T")
_R = TypeVar("_R")


class Scanner:
    """Holds every published address and finds the transfers to them."""

    def __init__(
        self, settings: SyncSettings, *, node: Node, feed: AddressFeed, status: WorkerStatus, metrics: Metrics
    ) -> None:
        self._chain_id = settings.chain.id
        native = settings.assets[0]
        self._asset = TransactionAsset(symbol=native.symbol, contract=None, decimals=native.decimals)
        self._native_key = native.key
        self._node = node
        self._feed = feed
        self._status = status
        self._metrics = metrics
        self._addresses = AddressSet()

    async def read_addresses(self) -> None:
        """Take in every address that was published before this call."""
        async for new in self._feed.read_to_stable_end():
            self._addresses.add(new)
        self._status.clear("kafka")
        self._status.fact(addresses=len(self._addresses))
        self._metrics.addresses.set(len(self._addresses))

    async def scan(self, parent: BlockRef, first: int, last: int, state: SyncState) -> tuple[WindowBlock, ...]:
        """The blocks `first` to `last` with their deposits, as far as they continue `parent`; none after a fork.

        `state` says from which block on each asset is reported, and whose transfers are never deposits.
        """
        blocks = await _at_once(self._node.block, range(first, last + 1))
        blocks = blocks[: validate_links(parent, [block.header for block in blocks])]
        await self.read_addresses()
        gas_address = parse_address(state.gas_address) if state.gas_address else None
        first_block = state.asset_first_blocks[self._native_key]
        hits = [self._hits(block, gas_address) if block.header.number >= first_block else [] for block in blocks]
        wanted = [
            (hit.hash, block.header.hash) for block, of_block in zip(blocks, hits, strict=True) for hit in of_block
        ]
        receipts = {receipt.transaction_hash: receipt for receipt in await _at_once(self._receipt, wanted)}
        return tuple(
            self._window_block(block, of_block, receipts) for block, of_block in zip(blocks, hits, strict=True)
        )

    def _hits(self, block: Block, gas_address: Address | None) -> list[Transaction]:
        found = self._addresses.matching_transactions(block.transactions)
        return [transaction for transaction in found if may_be_deposit(transaction, gas_address)]

    async def _receipt(self, wanted: tuple[str, str]) -> Receipt:
        return await self._node.receipt(*wanted)

    def _window_block(self, block: Block, hits: Sequence[Transaction], receipts: Mapping[str, Receipt]) -> WindowBlock:
        header = block.header
        deposits = deposits_of_block(header.hash, hits, receipts, self._chain_id, self._asset)
        return WindowBlock(header.number, header.hash, header.parent_hash, header.timestamp, deposits)


async def _at_once(ask: Callable[[_T], Awaitable[_R]], questions: Sequence[_T]) -> list[_R]:
    """The answers in the questions' order, a few asked at a time; the first error ends the others."""
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)

    async def ask_one(question: _T) -> _R:
        async with gate:
            return await ask(question)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask_one(question)) for question in questions]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
