"""Finding the deposits in a range of blocks.

The order is the promise: fetch the blocks, *then* read the address feed up to its last stable end, *then* match.
Whoever pays an address has seen its record, so the record lies below that end, and no deposit to a published address
can be missed. What a block holds beside its transactions (`block_contents`) is fetched before the feed is read; what
counts is decided by `transfers`. Receipts are fetched for the hits only.

One scanner serves everything that a process scans, for the address set is large. The feed hands out each address once,
so readers of it take turns: who waited for another's reading to end holds what that one was given.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from wallet_core.addresses import Address, parse_address
from wallet_core.blocks import Block, Receipt
from wallet_core.chain import BlockRef, WindowBlock, validate_links
from wallet_core.errors import NodeInconsistent
from wallet_core.matching import AddressSet
from wallet_core.messages import TransactionAsset
from wallet_core.ports import AddressFeed, Node
from wallet_core.resource import NativeAsset
from wallet_core.settings import SyncSettings
from wallet_core.spans import Span
from wallet_core.transfers import BlockContents, Hits, Reported, Scope, deposits_of_block, hits_of_block
from wallet_workers.block_contents import BlockContentsReader
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

REQUESTS_AT_ONCE_MAX = 8

_T = TypeVar("_T")
_R = TypeVar("_R")


class Scanner:
    """Holds every published address and finds the transfers to them."""

    def __init__(
        self, settings: SyncSettings, *, node: Node, feed: AddressFeed, status: WorkerStatus, metrics: Metrics
    ) -> None:
        self._chain_id = settings.chain.id
        self._assets = {
            asset.key: TransactionAsset(symbol=asset.symbol, contract=asset.contract, decimals=asset.decimals)
            for asset in settings.assets
        }
        self._contents = BlockContentsReader(node, status, metrics)
        self._node = node
        self._feed = feed
        self._status = status
        self._metrics = metrics
        self._addresses = AddressSet()
        self._reading = asyncio.Lock()

    @property
    def addresses(self) -> int:
        """How many addresses it knows."""
        return len(self._addresses)

    async def read_addresses(self) -> None:
        """Take in every address that was published before this call."""
        async with self._reading:
            async for new in self._feed.read_to_stable_end():
                self._addresses.add(new)
        self._status.clear("kafka")
        self._status.fact(addresses=len(self._addresses))
        self._metrics.addresses.set(len(self._addresses))

    async def scan(self, parent: BlockRef, first: int, last: int, scope: Scope) -> tuple[WindowBlock, ...]:
        """The blocks `first` to `last` with their deposits, as far as they continue `parent`; none after a fork.

        `scope` says from which block on each asset is reported, and whose ETH is never a deposit.
        """
        blocks = await _at_once(self._node.block, range(first, last + 1))
        return await self._find(blocks[: validate_links(parent, [block.header for block in blocks])], scope)

    async def scan_span(self, span: Span, scope: Scope) -> tuple[WindowBlock, ...]:
        """The blocks of a span with their deposits, whichever block the first one continues.

        Raises NodeInconsistent where the blocks are not of one branch.
        """
        blocks = await _at_once(self._node.block, range(span.first, span.last + 1))
        parent = BlockRef(span.first - 1, blocks[0].header.parent_hash)
        if validate_links(parent, [block.header for block in blocks]) != len(blocks):
            raise NodeInconsistent(f"blocks {span.first} to {span.last} are not linked: the chain changed meanwhile")
        return await self._find(blocks, scope)

    async def scan_each(self, numbers: Sequence[int], scope: Scope) -> tuple[WindowBlock, ...]:
        """The canonical blocks of these numbers with their deposits."""
        return await self._find(await _at_once(self._node.block, numbers), scope)

    async def _find(self, blocks: Sequence[Block], scope: Scope) -> tuple[WindowBlock, ...]:
        gas_address = parse_address(scope.gas_address) if scope.gas_address else None
        reported = [self._reported(block.header.number, scope.first_blocks, gas_address) for block in blocks]
        contents = await _at_once(self._contents.read, list(zip(blocks, reported, strict=True)))
        await self.read_addresses()
        hits = [hits_of_block(of_block, self._addresses, at) for of_block, at in zip(contents, reported, strict=True)]
        wanted = [
            (transaction_hash, block.header.hash)
            for block, of_block in zip(blocks, hits, strict=True)
            for transaction_hash in of_block.receipts_wanted
        ]
        receipts = {receipt.transaction_hash: receipt for receipt in await _at_once(self._receipt, wanted)}
        return tuple(
            self._window_block(of_block, of_hits, receipts, at)
            for of_block, of_hits, at in zip(contents, hits, reported, strict=True)
        )

    def _reported(self, number: int, first_blocks: Mapping[str, int], gas_address: Address | None) -> Reported:
        """What is reported of the block of this number."""
        in_force = {key: asset for key, asset in self._assets.items() if first_blocks[key] <= number}
        native = in_force.pop(NativeAsset.key, None)
        return Reported(self._chain_id, native, in_force, gas_address)

    async def _receipt(self, wanted: tuple[str, str]) -> Receipt:
        return await self._node.receipt(*wanted)

    def _window_block(
        self, contents: BlockContents, hits: Hits, receipts: Mapping[str, Receipt], reported: Reported
    ) -> WindowBlock:
        header = contents.block.header
        for contract, count in Counter(malformed.address for malformed in hits.malformed_logs).items():
            self._metrics.malformed_logs.labels(contract).inc(count)
            log.warning("transfer_logs_malformed", contract=contract, count=count, block=header.number)
        deposits = deposits_of_block(contents, hits, receipts, self._addresses, reported)
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
