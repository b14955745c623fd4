"""The leader of sync: one step at a time from the state in the ledger to the next.

A step asks the node for its head, lets `chain.next_move` decide, fetches and scans what that names, computes the new
state and appends the difference together with the events, in one transaction. Far behind, the blocks come from all
scanners (`catching_up.py`); everything else is the same. Memory is only a copy of what the ledger holds: after any
doubt (`OutcomeUnknown`, `Superseded`) the copy is thrown away and read again.

With a quorum no state is written whose newest settled block is not the one that so many endpoints agree on; how deep a
block is counts from a block that they agree on, or from our own tip; and an endpoint that alone contradicts a settled
block halts nothing. Where they do not agree the step ends with the reason,
writes nothing, and is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from wallet_core.blocks import Head, Header
from wallet_core.chain import (
    BlockRef,
    Confirm,
    Extend,
    FindAncestor,
    Horizon,
    Move,
    Rest,
    Rules,
    Window,
    extend,
    next_move,
    roll_back,
    settled_number,
)
from wallet_core.checkpoint import (
    SyncState,
    after_move,
    check_identity,
    read_identity,
    read_state,
    state_records,
    with_settings,
)
from wallet_core.errors import CheckpointLost, NodeInconsistent, Unavailable
from wallet_core.messages import Record, event_source
from wallet_core.ports import Clock, Ledger, Lock, Node
from wallet_core.reasons import Reason
from wallet_core.settings import SyncSettings
from wallet_core.tip import TipWatch
from wallet_workers.catching_up import CatchingUp
from wallet_workers.metrics import Metrics
from wallet_workers.orders import OrderDesk
from wallet_workers.rescanner import OrderStep
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

BLOCKS_PER_APPEND_MAX = 64
QUORUM_LAG_BLOCKS = 8
"""How far the endpoints of a quorum may be behind the first one's tip, and blocks far behind settle all the same."""
LAG_BLOCKS_MAX = 10
"""Blocks behind the tip up to which the wallet counts as working and not as catching up."""


class LeadershipLost(Exception):
    """The lock's deadline passed before a write; somebody else may lead by now."""


class Sequencer:
    """The state of one leadership, from one recovery to the next doubt."""

    def __init__(
        self,
        settings: SyncSettings,
        *,
        clock: Clock,
        node: Node,
        ledger: Ledger,
        lock: Lock,
        scanner: Scanner,
        catching_up: CatchingUp,
        orders: OrderDesk,
        status: WorkerStatus,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._node = node
        self._ledger = ledger
        self._lock = lock
        self._scanner = scanner
        self._catching_up = catching_up
        self._orders = orders
        self._status = status
        self._metrics = metrics
        self._rules = Rules(settings.chain.confirmation.depth, settings.chain.settle_depth)
        self._tip = TipWatch(settings.chain.stale_after_seconds)
        self._source = event_source(settings.namespace, settings.name)
        self._position = 0
        self._state: SyncState | None = None

    async def recover(self) -> None:
        """Read the state from the ledger and put this worker's settings in force.

        Raises the ledger's errors, CheckpointLost, CheckpointCorrupt, TopicsOfAnotherWallet, and SettingsSuperseded
        where a worker with newer settings wrote the checkpoint.
        """
        self._state = None
        await self._orders.forget()
        recovered = await self._ledger.recover()
        self._status.clear("kafka")
        state = read_state(recovered.values)
        identity = read_identity(recovered.values)
        if identity is None:
            raise CheckpointLost("state.sync holds no identity")
        check_identity(
            identity,
            namespace=self._settings.namespace,
            name=self._settings.name,
            chain_id=self._settings.chain.id,
        )
        self._node.expect_genesis(identity.genesis_hash)
        await self._node.header(0)  # nothing is written before a node of that chain answers
        mine = with_settings(
            state,
            self._settings.generation,
            self._status.settings_hash,
            [asset.key for asset in self._settings.assets],
            self._settings.sweep.gas_address,
        )
        self._position, self._state = recovered.position, state
        log.info("recovered", block=state.window.tip.number, window=len(state.window.blocks), sequence=state.sequence)
        await self._append(mine, [])
        await self._orders.begin(mine, recovered.values)

    async def wait(self, otherwise: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until `otherwise()` ends, or an order has something to add."""
        await self._orders.wait(otherwise)

    async def close(self) -> None:
        """End what runs beside the steps."""
        await self._orders.close()

    async def step(self) -> bool:
        """Do the next thing that the chain asks for. False where there is nothing to do until a new head.

        Raises LeadershipLost, the ledger's and the node's errors, and Halt where going on could be wrong.
        """
        if self._state is None:
            raise AssertionError("recover() comes before step()")
        head = await self._node.head()
        if rewinding := await self._orders.before_head(self._state, head, self._newest_read(head)):
            await self._carry_out(rewinding)
            return True
        move = await self._move(self._state, head)
        if move is not None:
            taken_back, move = self._orders.without_echo(self._state, move)
            state, events = after_move(taken_back.after, move, self._settings.chain.id, self._source)
            tip_before = self._state.window.tip.number
            await self._carry_out(replace(taken_back, after=state, records=(*taken_back.records, *events)))
            self._tell(move, tip_before)
        self._report(self._state, head)
        await self._orders.look()
        if move is not None and self._state.window.tip.number < head.tip.number:
            return True
        if beside := await self._orders.beside_head(self._state, self._newest_read(head)):
            await self._carry_out(beside)
        return beside is not None

    async def look_for_orders(self) -> None:
        """Where the node keeps `step()` from coming that far: a rewind may be what helps."""
        await self._orders.look()

    def _newest_read(self, head: Head) -> int:
        """The newest block that anybody may have read by now, with the addresses that were published by then."""
        ours = self._state.window.tip.number if self._state else 0
        return max(head.tip.number, ours, self._catching_up.offered_to)

    async def _carry_out(self, step: OrderStep) -> None:
        await self._append(step.after, list(step.records))
        for status, count in step.said.items():
            self._metrics.events.labels(status).inc(count)

    async def _move(self, state: SyncState, head: Head) -> Move | None:
        window = state.window
        finalized = BlockRef(head.finalized.number, head.finalized.hash) if head.finalized else None
        horizon = Horizon(head.tip.number, finalized)
        match next_move(window, head, BLOCKS_PER_APPEND_MAX):
            case Rest():
                return None
            case Confirm():
                return extend(window, self._rules, (), horizon)
            case FindAncestor(start):
                return await self._roll_back(state, start)
            case Extend(first, last):
                found = await self._catching_up.blocks(state, settled_number(self._rules, head))
                if found is None:
                    found = await self._scanner.scan(window.tip, first, last, state.scope)
                    if not found:
                        return await self._roll_back_for(state, first)
                if not found:  # scanners are at it; the head says nothing of a tip that nothing was linked to yet
                    return Move(window, ())
                return extend(window, self._rules, found, await self._agreed_horizon(window, horizon))

    async def _agreed_horizon(self, window: Window, horizon: Horizon) -> Horizon:
        """With a quorum the tip is only as high as a block that it agrees on, else our own.

        One endpoint's tip alone would say how deep blocks far behind are, and settle those that are not.
        """
        if self._settings.chain.quorum == 1:
            return horizon
        tip = max(horizon.tip - QUORUM_LAG_BLOCKS, window.tip.number)
        if tip > window.tip.number:
            try:
                await self._node.agreed_header(tip, may_settle=False)
            except Unavailable as error:
                log.warning("tip_not_agreed", block=tip, error_code=error.error_code, message=str(error))
                tip = window.tip.number
        return replace(horizon, tip=tip)

    async def _roll_back_for(self, state: SyncState, number: int) -> Move:
        """Roll back because block `number` does not continue the tip. Raises NodeInconsistent if the node has it."""
        move = await self._roll_back(state, state.window.tip.number)
        if move is None:
            raise NodeInconsistent(f"block {number} does not name block {number - 1} of the same node as its parent")
        return move

    async def _roll_back(self, state: SyncState, start: int) -> Move | None:
        """Back to the newest block below `start` that the node has too; None where it has the one at `start` after all.

        Raises NodeInconsistent where the answers are not of one branch, ForkBelowWindow where no block is common.
        """
        window = state.window
        above: Header | None = None
        for number in range(start, window.base.number - 1, -1):
            header = await self._node.header(number)
            if header.hash == window.hash_at(number):
                if above is None:
                    return None
                if above.parent_hash != header.hash:
                    raise NodeInconsistent(f"block {above.number} does not name block {number} as its parent")
                return roll_back(window, number)
            above = header
        await self._check_fork_below(window.base)
        return roll_back(window, window.base.number - 1)

    async def _check_fork_below(self, base: BlockRef) -> None:
        """Raises NodeInconsistent where only one endpoint is on another branch, and a quorum still has the base."""
        if self._settings.chain.quorum > 1 and (await self._node.agreed_header(base.number)).hash == base.hash:
            raise NodeInconsistent(
                f"an endpoint has another block {base.number} than the settled {base.hash}, "
                f"on which {self._settings.chain.quorum} endpoints agree; it is not followed"
            )

    async def _check_settled(self, base: BlockRef) -> None:
        """Raises NodeInconsistent where a block that is about to settle is not the one that a quorum agrees on."""
        if self._settings.chain.quorum > 1:
            agreed = await self._node.agreed_header(base.number)
            if agreed.hash != base.hash:
                raise NodeInconsistent(
                    f"block {base.number} {base.hash} is not settled: "
                    f"{self._settings.chain.quorum} endpoints agree on {agreed.hash}"
                )

    async def _append(self, after: SyncState, events: list[Record]) -> None:
        """Write the difference to `after`, if any. The state in memory moves only once it is written."""
        records = [*state_records(self._state, after), *events]
        if not records:
            return
        if self._state is not None and after.window.base != self._state.window.base:
            await self._check_settled(after.window.base)
        if not self._lock.is_held():
            raise LeadershipLost
        with self._metrics.append_seconds.time():
            self._position = await self._ledger.append(self._position, records)
        self._state = after
        self._orders.note(records)
        self._status.clear("kafka")

    def _tell(self, move: Move, tip_before: int) -> None:
        """Count and log what was written."""
        if taken_back := max(tip_before - move.window.tip.number, 0):
            self._metrics.rollbacks.inc()
            self._metrics.rolled_back_blocks.inc(taken_back)
            log.warning("rolled_back", ancestor=move.window.tip.number, blocks=taken_back)
        for said in move.announcements:
            self._metrics.events.labels(said.status.value).inc()
            log.info(
                "deposit",
                status=said.status.value,
                txid=said.deposit.txid,
                event_id=said.deposit.event_id,
                amount=said.deposit.amount,
                asset=said.deposit.asset.symbol,
                block=said.block_number,
            )

    def _report(self, state: SyncState, head: Head) -> None:
        self._status.clear("node", "halt")
        window = state.window
        lag = max(head.tip.number - window.tip.number, 0)
        self._metrics.block.set(window.tip.number)
        self._metrics.tip.set(head.tip.number)
        self._metrics.lag.set(lag)
        self._metrics.window.set(len(window.blocks))
        self._status.fact(
            block=window.tip.number,
            settled_block=window.base.number,
            tip=head.tip.number,
            lag=lag,
            sequence=state.sequence,
            generation=state.generation,
        )
        self._status.progress(Reason.CATCHING_UP if lag > LAG_BLOCKS_MAX else Reason.WORKING)
        stale_seconds = self._tip.stale_seconds(
            head.tip, unix_time=self._clock.unix_time(), monotonic=self._clock.monotonic()
        )
        if stale_seconds is not None:
            self._status.note(
                "tip",
                Reason.TIP_STALE,
                f"the node's newest block {head.tip.number} is {stale_seconds:.0f} s old; "
                "check that the node is in sync",
            )
        else:
            self._status.clear("tip")
