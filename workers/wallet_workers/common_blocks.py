"""Which block of the wallet's own branch the node is known to have too: the newest one that something proves.

What proves it is in `wallet_core.rewinds`. Proofs hang together like the blocks that they are of: where one holds, all
below it hold, so the newest one that holds is found by bisection. A last event's block costs one question to the
quorum, a coverage bucket 1,024 headers: buckets are asked about only where the events do not prove enough.

A node that lies about a header can break a proof, and make none: a bucket's digest and an event's hash are the
wallet's own, and the newest hash of each proof is the quorum's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from wallet_core.blocks import Header
from wallet_core.chain import BlockRef
from wallet_core.coverage import Bucket, digest_of
from wallet_core.ports import Node
from wallet_workers.status import WorkerStatus

HEADERS_AT_ONCE_MAX = 8

_T = TypeVar("_T")


class CommonBlocks:
    """See the module. Every method raises the node's errors."""

    def __init__(self, node: Node, status: WorkerStatus) -> None:
        self._node = node
        self._status = status

    async def has(self, ref: BlockRef, tip_number: int) -> bool:
        """Whether the block is the quorum's. `tip_number`: the node's newest block."""
        self._status.beat()
        return ref.number <= tip_number and (await self._node.agreed_header(ref.number)).hash == ref.hash

    async def newest(
        self, told: Sequence[BlockRef], buckets: Sequence[Bucket], unread: int, *, enough: int, tip_number: int
    ) -> int:
        """The newest common block that is known, or one of at least `enough`; at least the genesis block.

        `told`: blocks that last events are of, and `buckets`, all of one branch and lowest first. `unread`: up to this
        block nothing was read.
        """

        async def holds(ref: BlockRef) -> bool:
            return await self.has(ref, tip_number)

        async def is_covered(bucket: Bucket) -> bool:
            return await self._has_all(bucket, tip_number)

        kept = await _count(told, holds)
        common = max(unread, told[kept - 1].number) if kept else unread
        if kept < len(told):
            common = max(min(common, told[kept].number - 1), 0)
        left = [each for each in buckets if each.last > common and (kept == len(told) or each.last < told[kept].number)]
        if common >= enough or not left:
            return common
        sufficing = next((each for each in left if each.last >= enough), None)
        if sufficing is not None and await is_covered(sufficing):
            return sufficing.last
        left = [each for each in left if each.last < enough]
        kept = await _count(left, is_covered)
        return left[kept - 1].last if kept else common

    async def _has_all(self, bucket: Bucket, tip_number: int) -> bool:
        if bucket.last > tip_number:
            return False
        hashes = await self._hashes(range(bucket.first, bucket.last), self._node.header)
        agreed = await self._node.agreed_header(bucket.last)
        return digest_of([*hashes, agreed.hash]) == bucket.digest

    async def add_agreed_hashes(self, numbers: Sequence[int], known: dict[int, str]) -> None:
        """Add the hashes of the quorum's blocks of these numbers to those that are known, as they come."""
        for part in _parts(numbers):
            known.update(zip(part, await self._hashes(part, self._node.agreed_header), strict=True))

    async def _hashes(self, numbers: Sequence[int], ask: Callable[[int], Awaitable[Header]]) -> list[str]:
        """A few asked at a time."""
        found: list[str] = []
        for part in _parts(numbers):
            found += [header.hash for header in await asyncio.gather(*map(ask, part))]
            self._status.beat()
        return found


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[at : at + HEADERS_AT_ONCE_MAX] for at in range(0, len(numbers), HEADERS_AT_ONCE_MAX))


async def _count(things: Sequence[_T], holds: Callable[[_T], Awaitable[bool]]) -> int:
    """How many of the things, from the first on, hold; where one does not, none after it does."""
    low, high = 0, len(things)
    while low < high:
        middle = (low + high) // 2
        if await holds(things[middle]):
            low = middle + 1
        else:
            high = middle
    return low
