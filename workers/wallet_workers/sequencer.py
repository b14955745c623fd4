"""The leader of sync: one step at a time from the state in the ledger to the next.

A step asks the node for its head, lets `chain.next_move` decide, fetches and scans what that names, computes the new
state and appends the difference together with the events, in one transaction. Memory is only a copy of what the ledger
holds: after any doubt (`OutcomeUnknown`, `Superseded`) the copy is thrown away and read again.
"""

from __future__ import annotations

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
    extend,
    next_move,
    roll_back,
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
from wallet_core.errors import CheckpointLost, NodeInconsistent
from wallet_core.messages import Record, event_source
from wallet_core.ports import Clock, Ledger, Lock, Node
from wallet_core.reasons import Reason
from wallet_core.settings import SyncSettings
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

BLOCKS_PER_APPEND_MAX = 64
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
        status: WorkerStatus,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._node = node
        self._ledger = ledger
        self._lock = lock
        self._scanner = scanner
        self._status = status
        self._metrics = metrics
        self._rules = Rules(settings.chain.confirmation.depth, settings.chain.settle_depth)
        self._source = event_source(settings.namespace, settings.name)
        self._position = 0
        self._state: SyncState | None = None

    async def recover(self) -> None:
        """Read the state from the ledger and put this worker's settings in force.

        Raises the ledger's errors, CheckpointLost, CheckpointCorrupt, TopicsOfAnotherWallet, and SettingsSuperseded
        where a worker with newer settings wrote the checkpoint.
        """
        self._state = None
        genesis = await self._node.header(0)
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
            genesis_hash=genesis.hash,
        )
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

    async def step(self) -> bool:
        """Do the next thing that the chain asks for. False where there is nothing to do until a new head.

        Raises LeadershipLost, the ledger's and the node's errors, and Halt where going on could be wrong.
        """
        if self._state is None:
            raise AssertionError("recover() comes before step()")
        head = await self._node.head()
        move = await self._move(self._state, head)
        if move is not None:
            state, events = after_move(self._state, move, self._settings.chain.id, self._source)
            await self._append(state, events)
            self._tell(move)
        self._report(self._state, head)
        return move is not None and self._state.window.tip.number < head.tip.number

    async def _move(self, state: SyncState, head: Head) -> Move | None:
        window = state.window
        if head.tip.number < window.base.number:
            raise NodeInconsistent(
                f"the node's newest block {head.tip.number} is below the settled block {window.base.number}: "
                "is it still syncing, or was its chain replaced?"
            )
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
                blocks = await self._scanner.scan(window.tip, first, last, state)
                if not blocks:
                    return await self._roll_back_for(state, first)
                return extend(window, self._rules, blocks, horizon)

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
                move = roll_back(window, number)
                self._metrics.rollbacks.inc()
                self._metrics.rolled_back_blocks.inc(window.tip.number - number)
                log.warning("rolled_back", ancestor=number, blocks=window.tip.number - number)
                return move
            above = header
        return roll_back(window, window.base.number - 1)

    async def _append(self, after: SyncState, events: list[Record]) -> None:
        """Write the difference to `after`, if any. The state in memory moves only once it is written."""
        records = [*state_records(self._state, after), *events]
        if not records:
            return
        if not self._lock.is_held():
            raise LeadershipLost
        with self._metrics.append_seconds.time():
            self._position = await self._ledger.append(self._position, records)
        self._state = after
        self._status.clear("kafka")

    def _tell(self, move: Move) -> None:
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
        age = self._clock.unix_time() - head.tip.timestamp
        if 0 < self._settings.chain.stale_after_seconds < age:
            self._status.note(
                "tip",
                Reason.TIP_STALE,
                f"the node's newest block {head.tip.number} is {age:.0f} s old; check that the node is in sync",
            )
        else:
            self._status.clear("tip")
