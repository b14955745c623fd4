"""Carries out rewinds, step by step, before the head is served.

**Before the first change** everything is asked for that the rewind needs: that its target is common to the wallet's
branch and the node's (`wallet_core.rewinds` says why), every block whose events it may take back, and the first block
that is to be read again, whole: for from then on the wallet can do nothing else than follow the chain from there. What
the node does not give is tried again for `PATIENCE_SECONDS`, with the reason in the order's outcome, while the head
goes on; then the order is refused. The patience begins anew with each process.

Once something was taken back there is no way but on: what is not given is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from wallet_core.blocks import Head
from wallet_core.chain import BlockRef, Rules, settled_number
from wallet_core.checkpoint import SyncState
from wallet_core.coverage import Bucket
from wallet_core.errors import CheckpointCorrupt, OrderRefused, Unavailable
from wallet_core.messages import TransactionEvent, transaction_record
from wallet_core.orders import OrderState, OrderStatus, refused, tried_again
from wallet_core.ports import Clock, Node
from wallet_core.rewinds import (
    ORPHANS_PER_APPEND_MAX,
    begun,
    check_common,
    check_target,
    go_back,
    gone,
    take_back,
)
from wallet_workers.common_blocks import CommonBlocks
from wallet_workers.rescanner import OrderStep, with_order
from wallet_workers.said_before import SaidBefore
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

RETRY_SECONDS = 5.0
"""Between two tries at a rewind that the node could not serve."""
PATIENCE_SECONDS = 600.0
"""From the first such try to the refusal."""


@dataclass(frozen=True)
class _PutOff:
    order_id: str
    since: float
    """By the monotonic clock, like `until`."""
    until: float


class Rewinder:
    """The rewind whose turn it is."""

    def __init__(
        self, rules: Rules, source: str, *, clock: Clock, node: Node, said_before: SaidBefore, status: WorkerStatus
    ) -> None:
        self._rules = rules
        self._source = source
        self._clock = clock
        self._node = node
        self._said_before = said_before
        self._common_blocks = CommonBlocks(node, status)
        self._put_off: _PutOff | None = None

    @property
    def due_at(self) -> float | None:
        """When the rewind that was put off is to be tried again, by the monotonic clock."""
        return self._put_off.until if self._put_off else None

    def is_put_off(self, order: OrderState) -> bool:
        """Whether this rewind waits for its next try."""
        put_off = self._put_off
        return put_off is not None and put_off.order_id == order.id and self._clock.monotonic() < put_off.until

    async def next_step(
        self, state: SyncState, order: OrderState, head: Head, buckets: Callable[[], Sequence[Bucket]]
    ) -> OrderStep | None:
        """The rewind's next step; None where nothing is to be written now, and the head may be served.

        `buckets()`: what is covered, lowest first. Raises the node's and Kafka's errors once it has begun.
        """
        is_new = order.status is OrderStatus.ACCEPTED
        try:
            if is_new:
                await self._check(state, order, head, buckets)
            step: OrderStep | None = await self._go_on(state, order, head, buckets)
        except (OrderRefused, CheckpointCorrupt) as error:
            step = with_order(state, refused(order, str(error)))
        except Unavailable as error:
            if not is_new:
                raise
            return self._try_later(state, order, error)
        self._put_off = None
        return step

    def _try_later(self, state: SyncState, order: OrderState, error: Unavailable) -> OrderStep | None:
        now = self._clock.monotonic()
        since = self._put_off.since if self._put_off and self._put_off.order_id == order.id else now
        log.warning("rewind_put_off", order=order.id, error_code=error.error_code, message=str(error))
        if now - since >= PATIENCE_SECONDS:
            self._put_off = None
            return with_order(state, refused(order, f"not possible in {PATIENCE_SECONDS:g} s: {error}"))
        self._put_off = _PutOff(order.id, since, now + RETRY_SECONDS)
        return with_order(state, tried_again(order, str(error)))

    async def _check(
        self, state: SyncState, order: OrderState, head: Head, buckets: Callable[[], Sequence[Bucket]]
    ) -> None:
        """Raises OrderRefused where the rewind would leave something out, the node's errors where it cannot be told."""
        to, base, tip_number = order.from_block, state.window.base, head.tip.number
        check_target(to, base.number, settled_number(self._rules, head))
        if to < tip_number:
            await self._node.block(to + 1)
        if await self._common_blocks.has(base, tip_number):
            return
        published = await self._said_before.load(to)
        common = await self._common_blocks.newest(
            published.live_refs(base.number),
            [bucket for bucket in buckets() if bucket.last <= base.number],
            min(state.asset_first_blocks.values(), default=1) - 1,
            enough=to,
            tip_number=tip_number,
        )
        check_common(to, common)

    async def _go_on(
        self, state: SyncState, order: OrderState, head: Head, buckets: Callable[[], Sequence[Bucket]]
    ) -> OrderStep:
        to = order.from_block
        published = await self._said_before.load(to)
        state = replace(state, sequence=max(state.sequence, published.sequence))
        blocks = [number for number in published.live_blocks() if to < number <= head.tip.number]
        found = gone(published, await self._common_blocks.agreed_hashes(blocks))[:ORPHANS_PER_APPEND_MAX]
        if found:
            step = orphaning(state, take_back(found, state.sequence), self._source)
            return replace(
                step, after=replace(step.after, orders=step.after.orders.with_order(begun(order, len(found))))
            )
        base = await self._node.agreed_header(to)
        return OrderStep(go_back(state, order, BlockRef(base.number, base.hash), published, buckets()))


def orphaning(state: SyncState, events: list[TransactionEvent], source: str) -> OrderStep:
    """The step that takes transfers back."""
    records = tuple(transaction_record(event, source) for event in events)
    return OrderStep(replace(state, sequence=state.sequence + len(records)), records, {"orphaned": len(records)})
