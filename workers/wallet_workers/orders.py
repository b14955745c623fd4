"""The desk of the leader of sync: where orders come in, are carried out, and get their outcome.

The sequencer asks twice in each step:

- `before_head`: a rewind whose turn it is goes first (`rewinder`), for it decides what the head is compared with.
  Nothing else of an order is done before the head is served; a halted leader, whose head raises, does rewinds, ends
  orders, and does nothing else.
- `beside_head`, once the head is served: new orders are taken, and the rescan whose turn it is goes on (`rescanner`).

Looking for orders costs one ListOffsets, at most every `LOOK_SECONDS`, behind the head and never before it, and while
the leader waits, for a new head, a node that fails or the end of a halt. Where Kafka does not answer the look, there is
no news. A look reads to the topic's end, so that a rewind is seen behind whatever else lies there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from wallet_core.blocks import Head
from wallet_core.chain import Move, Rules
from wallet_core.checkpoint import SyncState
from wallet_core.coverage import COVERED_PREFIX, read_buckets
from wallet_core.errors import Unavailable
from wallet_core.messages import Record, Topic, event_source
from wallet_core.orders import OrderMessage, holds_urgent, take_orders
from wallet_core.ports import Clock, Node, OrderFeed, PublishedEvents
from wallet_core.rewinds import is_replayed, replay, take_back
from wallet_core.settings import SyncSettings
from wallet_workers.rescanner import OrderStep, Rescanner
from wallet_workers.rewinder import Rewinder, orphaning
from wallet_workers.said_before import SaidBefore
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

LOOK_SECONDS = 1.0
MESSAGES_HELD_MAX = 1_000
"""Messages that are held before they are taken: a halted leader, too, takes as many, and reads on."""


class OrderDesk:
    """See the module. Belongs to one leadership; `close()` at its end."""

    def __init__(
        self,
        settings: SyncSettings,
        *,
        clock: Clock,
        node: Node,
        feed: OrderFeed,
        published: PublishedEvents,
        scanner: Scanner,
        status: WorkerStatus,
    ) -> None:
        self._source = event_source(settings.namespace, settings.name)
        self._clock = clock
        self._feed = feed
        self._said_before = SaidBefore(published, status)
        self._rewinder = Rewinder(
            Rules(settings.chain.confirmation.depth, settings.chain.settle_depth),
            self._source,
            clock=clock,
            node=node,
            said_before=self._said_before,
            status=status,
        )
        self._rescanner = Rescanner(
            node=node,
            scanner=scanner,
            said_before=self._said_before,
            clock=clock,
            chain_id=settings.chain.id,
            source=self._source,
        )
        self._covered: dict[bytes, bytes] = {}
        # The coverage's records in the state topic.
        self._new: list[OrderMessage] = []
        self._read_to = 0
        self._looked_at = -LOOK_SECONDS

    # --- what the sequencer calls in a step ---------------------------------------------------------------------------

    async def begin(self, state: SyncState, values: Mapping[bytes, bytes]) -> None:
        """After a recovery: forget what was in memory, and look for orders. `values`: what the state topic holds."""
        await self.forget()
        self._covered = {key: value for key, value in values.items() if key.startswith(COVERED_PREFIX)}
        self._read_to = state.orders.position
        await self._look()

    async def before_head(self, state: SyncState, head: Head, newest_read: int) -> OrderStep | None:
        """The next step of a rewind; None where there is none, and the head may be served.

        `newest_read`: the newest block that anybody may have read before now.
        """
        order = state.orders.next_rewind
        if order is None:
            await self._rewinder.stop()
        elif not self._rewinder.is_waiting(order):
            await self._rescanner.stop()  # what it is reading may be of blocks that are about to go
            step = await self._rewinder.next_step(state, order, head, partial(read_buckets, self._covered))
            if step is not None:
                return self._logged(step, state)
        if holds_urgent(self._new) or len(self._new) >= MESSAGES_HELD_MAX:
            return self._take(state, newest_read)
        if state.replay_to is not None:
            await self._said_before.load(state.window.base.number, limited=False)
        return None

    def without_echo(self, state: SyncState, move: Move) -> tuple[OrderStep, Move]:
        """After a rewind: what is to be taken back first, and the move without what was said before."""
        published = self._said_before.published
        if state.replay_to is None or published is None:
            return OrderStep(state), move
        new = replay(published, move)
        step = orphaning(state, take_back(new.gone, state.sequence), self._source)
        if is_replayed(replace(state, window=new.move.window)):
            step = replace(step, after=replace(step.after, replay_to=None))
            log.info("replayed", block=state.replay_to)
        return step, new.move

    async def beside_head(self, state: SyncState, newest_read: int) -> OrderStep | None:
        """What orders add once the head is served; None where they add nothing now. See `before_head`."""
        if self._new:
            return self._take(state, newest_read)
        if state.orders.unfinished("rescan"):
            step = await self._rescanner.next_step(state)
            return step and self._logged(step, state)
        await self._rescanner.stop()
        if state.replay_to is None and state.orders.next_rewind is None:
            self._said_before.forget()
        return None

    def note(self, records: list[Record]) -> None:
        """Take in what was appended."""
        self._said_before.note(records)
        for record in records:
            if record.topic is Topic.STATE_SYNC and record.key.startswith(COVERED_PREFIX):
                if record.value is None:
                    self._covered.pop(record.key, None)
                else:
                    self._covered[record.key] = record.value

    async def wait(self, otherwise: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until `otherwise()` ends, a new order comes, or what an order reads beside has been read.

        It is called only once this runs: a wait that is cancelled before it begins leaves nothing unawaited.
        """
        tasks: set[asyncio.Task[Any]] = {asyncio.create_task(otherwise()), asyncio.create_task(self._until_news())}
        beside: set[asyncio.Task[Any]] = {task for task in (self._rescanner.task, self._rewinder.task) if task}
        try:
            await asyncio.wait(tasks | beside, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop what runs beside, and forget."""
        await self._rewinder.stop()
        await self.forget()

    async def forget(self) -> None:
        """Forget what may not be so after a doubt; what a rewind asks of the node is no matter of ours."""
        await self._rescanner.stop()
        self._said_before.forget()
        self._new = []

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _until_news(self) -> None:
        """A new message came, or a rewind that was put off has become due."""
        known, due_at = len(self._new), self._rewinder.due_at
        if due_at is None or due_at <= self._clock.monotonic():  # what was due before this wait had its turn
            due_at = math.inf
        while len(self._new) == known and self._clock.monotonic() < due_at:
            await self._clock.sleep(LOOK_SECONDS)
            await self._look()

    async def look(self) -> None:
        """Ask for new orders, if the last time is long enough ago."""
        if self._clock.monotonic() - self._looked_at >= LOOK_SECONDS:
            await self._look()

    async def _look(self) -> None:
        self._looked_at = self._clock.monotonic()
        try:
            while len(self._new) < MESSAGES_HELD_MAX and (found := await self._feed.read(self._read_to)):
                self._new += found
                self._read_to = found[-1].offset + 1
        except Unavailable as error:
            log.warning("orders_unread", error_code=error.error_code, message=str(error))

    def _take(self, state: SyncState, newest_read: int) -> OrderStep:
        messages, self._new = self._new, []
        book = take_orders(state.orders, messages, newest_read)
        return self._logged(OrderStep(replace(state, orders=book)), state)

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def _logged(self, step: OrderStep, before: SyncState) -> OrderStep:
        known = {order.id: order.status for order in before.orders.orders}
        for order in step.after.orders.orders:
            if known.get(order.id) is not order.status:
                log.info("order", order=order.id, type=order.type, status=order.status.value, message=order.message)
        return step
