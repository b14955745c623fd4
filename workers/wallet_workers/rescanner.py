"""Carries out rescans beside the head.

A batch of settled blocks is fetched and matched by a task of its own, while the sequencer serves the head. Only its
outcome is judged and appended between two heads, in one append, so the head waits for one append at most. What goes
wrong with a batch is no trouble of the head's: it is told in the order's outcome, and tried again after a growing
pause, during which the next rescan goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from wallet_core.chain import BlockRef, WindowBlock
from wallet_core.checkpoint import SyncState
from wallet_core.deposits import announce
from wallet_core.errors import Halt, NodeInconsistent, OrderRefused, Unavailable
from wallet_core.messages import Record
from wallet_core.orders import OrderState, refused, tried_again
from wallet_core.ports import Clock, Node
from wallet_core.rescans import Batch, finished, is_over, judge, next_batch, waiting
from wallet_workers.said_before import SaidBefore
from wallet_workers.scanner import Scanner

log = structlog.get_logger()

RETRY_SECONDS_MIN = 2.0
RETRY_SECONDS_MAX = 60.0
"""Between two tries at a batch that failed; twice as long each time."""


@dataclass(frozen=True)
class OrderStep:
    """The next state because of an order, the records that go with it, and how many events of each status they are."""

    after: SyncState
    records: tuple[Record, ...] = ()
    said: Mapping[str, int] = field(default_factory=dict)


def with_order(state: SyncState, order: OrderState) -> OrderStep | None:
    """The step that changes an order's state and nothing else; None where it is the same."""
    after = replace(state, orders=state.orders.with_order(order))
    return OrderStep(after) if after != state else None


@dataclass(frozen=True)
class _Reading:
    order: OrderState
    task: asyncio.Task[tuple[WindowBlock, ...]]


@dataclass(frozen=True)
class _Pause:
    until: float
    """By the monotonic clock."""
    seconds: float


class Rescanner:
    """The rescans, one batch of one of them at a time. `stop()` when done."""

    def __init__(
        self, *, node: Node, scanner: Scanner, said_before: SaidBefore, clock: Clock, chain_id: int, source: str
    ) -> None:
        self._node = node
        self._scanner = scanner
        self._said_before = said_before
        self._clock = clock
        self._chain_id = chain_id
        self._source = source
        self._reading: _Reading | None = None
        self._pauses: dict[str, _Pause] = {}
        # By order: those whose last batch failed.

    @property
    def task(self) -> asyncio.Task[tuple[WindowBlock, ...]] | None:
        """The batch that is being read."""
        return self._reading.task if self._reading else None

    async def next_step(self, state: SyncState) -> OrderStep | None:
        """What the rescans add to the state now; None where the next batch is not read yet."""
        orders = state.orders.unfinished("rescan")
        if self._reading is not None and self._reading.order not in orders:
            await self.stop()  # a rewind put it elsewhere, or it was cancelled
        if self._reading is None:
            return self._begin_one(state, orders)
        if not self._reading.task.done():
            return None
        (order, task), self._reading = (self._reading.order, self._reading.task), None
        try:
            blocks = task.result()
        except Unavailable as error:
            log.warning("rescan_retried", order=order.id, error_code=error.error_code, message=str(error))
            self._pause(order)
            return with_order(state, tried_again(order, str(error)))
        except (OrderRefused, Halt) as error:
            return with_order(state, refused(order, f"{type(error).__name__}: {error}"))
        self._pauses.pop(order.id, None)
        return self._judge(state, order, blocks)

    async def stop(self) -> None:
        """Give up the batch that is being read."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.task.cancel()
            await asyncio.gather(reading.task, return_exceptions=True)

    def _begin_one(self, state: SyncState, orders: Sequence[OrderState]) -> OrderStep | None:
        """Read the next batch of the first rescan that can go on; or say of one that it is over, or waits."""
        self._pauses = {order.id: self._pauses[order.id] for order in orders if order.id in self._pauses}
        for order in orders:
            if is_over(order):
                return with_order(state, finished(order))
            batch = next_batch(order, state.window.base)
            if batch is None:
                if step := with_order(state, waiting(order)):
                    return step
            elif order.id not in self._pauses or self._clock.monotonic() >= self._pauses[order.id].until:
                self._reading = _Reading(order, asyncio.create_task(self._read(state, order, batch)))
                return None
        return None

    def _pause(self, order: OrderState) -> None:
        before = self._pauses.get(order.id)
        seconds = min(before.seconds * 2, RETRY_SECONDS_MAX) if before else RETRY_SECONDS_MIN
        self._pauses[order.id] = _Pause(self._clock.monotonic() + seconds, seconds)

    def _judge(self, state: SyncState, order: OrderState, blocks: tuple[WindowBlock, ...]) -> OrderStep | None:
        published = self._said_before.published
        if published is None:  # forgotten meanwhile: the batch is read again
            return None
        findings = judge(order, blocks, published, state.window.tip.number)
        records = tuple(
            announce(said, state.sequence + n, self._chain_id, self._source)
            for n, said in enumerate(findings.announcements, start=1)
        )
        after = replace(state, sequence=state.sequence + len(records), orders=state.orders.with_order(findings.order))
        return OrderStep(after, records, {"confirmed": len(records)})

    async def _read(self, state: SyncState, order: OrderState, batch: Batch) -> tuple[WindowBlock, ...]:
        """The batch's blocks with every transfer in them, whenever its asset or address was added."""
        await self._said_before.load(None)
        base = state.window.base
        if (await self._node.agreed_header(base.number)).hash != base.hash:
            raise NodeInconsistent(f"the node has another block {base.number} than the settled {base.hash}")
        parent_hash = order.parent_hash or (await self._node.header(batch.first - 1)).hash
        everything = replace(state.scope, first_blocks=dict.fromkeys(state.asset_first_blocks, 0))
        blocks = await self._scanner.scan(BlockRef(batch.first - 1, parent_hash), batch.first, batch.last, everything)
        if len(blocks) != batch.last - batch.first + 1:
            raise NodeInconsistent(
                f"blocks {batch.first} to {batch.last} do not continue the ones that were read before"
            )
        await self._check_agreed(BlockRef(batch.last, blocks[-1].hash), base)
        return blocks

    async def _check_agreed(self, last: BlockRef, base: BlockRef) -> None:
        """Raises NodeInconsistent where the last block, which stands for all below it, is not the chain's.

        The blocks may have come from another endpoint than the one that has the settled block; with a quorum, from one
        that is alone with them.
        """
        expected = base.hash if last.number == base.number else (await self._node.agreed_header(last.number)).hash
        if last.hash != expected:
            raise NodeInconsistent(f"block {last.number} {last.hash} was read, and the chain's is {expected}")
