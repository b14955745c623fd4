"""What happened: the last events as text for whoever must find out why, a hash over all of them, and how often what.

The counts say whether the simulation really does what it is there to do: a fault that never happens is a defect.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

import structlog

from simulation.virtual_loop import VirtualLoop, current_process

EVENTS_KEPT = 400


class What(StrEnum):
    """A kind of thing that happens in simulated worlds. Each happens somewhere within the first 200 seeds."""

    CRASH = "a process crashes at an effect"
    CRASH_ANYWHERE = "a process crashes at any await"
    BOOTSTRAP_CRASH = "a bootstrap crashes"
    SLEEP = "a process falls asleep"
    WOKE_LATE = "a leader wakes after its successor wrote"
    STOP = "a process is told to stop"
    DOUBLE = "one process more than wanted"
    ROLL_OUT = "newer settings"
    ASSET_ADDED = "an asset is added"
    ASSET_REMOVED = "an asset is removed"
    GAS_ADDRESS = "a gas address appears"

    KAFKA_ERROR = "kafka: an error"
    KAFKA_ANSWER_LOST = "kafka: a lost answer"
    KAFKA_AWAY = "kafka: away"
    FENCED = "kafka: a producer is fenced"
    ABORTED = "kafka: a transaction is aborted by a later producer"
    TIMED_OUT = "kafka: a transaction is timed out"
    LATE_COMMIT_DONE = "kafka: a late EndTxn settles"
    LATE_COMMIT_REFUSED = "kafka: a late EndTxn is refused"
    REPEATED_COMMIT = "kafka: an EndTxn comes again"
    REBALANCED = "kafka: the group is rebalanced"
    CHECKPOINT_LOST = "kafka: the checkpoint is lost"

    REDIS_ERROR = "redis: an error"
    REDIS_ANSWER_LOST = "redis: a lost answer"
    REDIS_AWAY = "redis: away"
    REDIS_WIPED = "redis: wiped"

    NODE_ERROR = "node: an error"
    NODE_ANSWER_LOST = "node: a lost answer"
    NODE_AWAY = "node: away"
    NODE_LATE = "node: late"
    NODE_FORGETS = "node: null for a block"
    NODE_FORGETS_RECEIPTS = "node: null for a receipt"
    NODE_MISPLACES_RECEIPTS = "node: a receipt of another block"
    NODE_LOSES_TRACES = "node: traces left out"
    NODE_STRAY_LOGS = "node: logs that were not asked for"
    NODE_STUCK = "node: stuck on an abandoned branch"
    NODE_FINALITY_GOES_BACK = "node: finality goes back"
    NODE_OTHER_CHAIN = "node: of another chain id"
    NODE_OTHER_GENESIS = "node: of another genesis block"
    NODE_PRIVATE_BRANCH = "node: on a branch of its own, against a quorum"
    OTHERS_AWAY = "node: others of the quorum are away or late"

    BLOCK_EMPTY = "chain: an empty block"
    BLOCK_HUGE = "chain: a huge block"
    FORK = "chain: a fork"
    FORK_WHILE_DOWN = "chain: a fork while no leader runs"
    FORK_BELOW = "chain: a fork below the window"
    OTHER_OUTCOME = "chain: a transaction does something else on another branch"

    SPAN_LATE = "span: a result comes late"
    SPAN_TWICE = "span: a result comes twice"
    SPAN_UNDECODABLE = "span refused: undecodable"
    SPAN_CUT = "span refused: cut"
    SPAN_RANGE = "span refused: range"
    SPAN_GENERATION = "span refused: generation"
    SPAN_SETTINGS = "span refused: settings"
    SPAN_ADDRESSES = "span refused: addresses"
    SPAN_GAP = "span refused: gap"
    SPAN_PARENT = "span refused: parent"
    SPAN_HASH = "span refused: hash"
    SPAN_DEPOSITS = "span refused: deposits"

    RESCAN_DONE = "order: rescan done"
    RESCAN_REFUSED = "order: rescan refused"
    REWIND_DONE = "order: rewind done"
    REWIND_REFUSED = "order: rewind refused"
    BAD_ORDER = "order: unknown refused"
    MADE_ANEW = "a checkpoint is made anew"
    HALTED = "a leader halts at a fork below its window"


class Trace:
    """The story of one seed."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._hash = hashlib.sha256()
        self.last: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.counts: Counter[What] = Counter()

    def add(self, event: str) -> None:
        """Remember what the process that runs now, or the world, did."""
        process = current_process()
        line = f"{self._loop.time():10.3f}  {process.name if process else '·':12} {event}"
        self.last.append(line)
        self._hash.update(line.encode() + b"\n")

    def happened(self, what: What, where: str = "") -> None:
        """The same for something that is counted."""
        self.counts[what] += 1
        self.add(f"*** {what} {where}")

    @property
    def digest(self) -> str:
        """Two runs with one digest were the same run."""
        return self._hash.hexdigest()

    def log_processor(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
        """The workers' own log lines, as part of the story and nowhere else."""
        name = event.pop("event")
        self.add(f"log {name} " + " ".join(f"{field}={value}" for field, value in event.items()))
        match name:
            case "span_refused":
                self.counts[What(f"span refused: {event['cause']}")] += 1
            case "order" if event["status"] in ("done", "refused"):
                self.counts[What(f"order: {event['type']} {event['status']}")] += 1
            case "checkpoint_made_anew":
                self.counts[What.MADE_ANEW] += 1
            case "trouble" if "ForkBelowWindow" in event["message"]:
                self.counts[What.HALTED] += 1
        raise structlog.DropEvent
