"""What the rules and loops need from the world.

Each port is a Protocol with the promises that its users rely on; `testing/` has a fake of each, and a contract test
runs on the fake and on the real adapter. Every method may raise the `Unavailable` error of its side
(`KafkaUnreachable`, `RedisUnreachable`, `RpcUnreachable` or `WrongChain`) unless it says otherwise. No method waits for
ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wallet_core.addresses import Address
from wallet_core.blocks import Block, Frame, Head, Header, Log, Receipt
from wallet_core.messages import Record
from wallet_core.orders import OrderMessage
from wallet_core.published import PublishedRecord


class Clock(Protocol):
    """Time. Nothing else in the project asks the machine for it."""

    def monotonic(self) -> float:
        """Seconds that never go back and go on while the process is stopped by a signal."""

    def unix_time(self) -> float:
        """Seconds since the Unix epoch."""

    async def sleep(self, seconds: float) -> None:
        """Let others run for about that long."""


class Node(Protocol):
    """Ethereum nodes of the right chain, whichever answers."""

    async def head(self) -> Head:
        """The tip at this moment, with the newest finalized block where the wallet's `confirmation` needs it."""

    def expect_genesis(self, genesis_hash: str) -> None:
        """From now on only nodes whose block 0 has this hash are of the right chain. Asks nothing."""

    async def header(self, number: int) -> Header:
        """The canonical block's header. Raises NodeInconsistent where the node has no such block."""

    async def agreed_header(self, number: int, *, may_settle: bool = True) -> Header:
        """The canonical block's header, as `chain.quorum` endpoints give it; with a quorum of 1 the same as `header`.

        Afterwards an endpoint with another block in its place is not asked again until it has this one, unless the
        block may not settle yet: the chain may leave it for another one.

        Raises NodeInconsistent where endpoints disagree and no hash has a quorum, RpcUnreachable where too few answer.
        """

    async def block(self, number: int) -> Block:
        """The canonical block with its transactions. Raises NodeInconsistent where the node has no such block."""

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        """The outcome of a transaction in that block. Raises NodeInconsistent for null or another block's receipt."""

    async def logs(self, block: Header, contracts: Collection[str], topic: str) -> Sequence[Log]:
        """What these contracts (lower-case hex) logged with this first topic in that very block, in its order.

        Raises NodeInconsistent where the node does not have the block, or gives a log that is not of the block, was not
        asked for, or is excluded by the header's bloom. None at all although the bloom admits some is normal.
        """

    async def frames(self, block: Block) -> Mapping[str, Sequence[Frame] | None] | None:
        """Each of the block's transactions' call frames, by its hash, in pre-order; None where there are no traces.

        None is said of the block only where every endpoint that answers has no traces, or none of that block any more;
        of one transaction where its own trace is too large, or takes too long, at each that traces. Raises
        NodeInconsistent where frames are left out, or are not of that very block.
        """

    async def wait_for_head(self, timeout_seconds: float, seen: int) -> int:
        """Return when more than `seen` heads were announced, or after the time-out: how many were announced so far.

        Who hands that number back at the next wait misses none between two waits, however many others wait. It begins
        with 0. Never raises: who wakes looks for itself.
        """


@dataclass(frozen=True)
class Recovered:
    """The state topic as it stands."""

    position: int
    """The offset that follows everything read; `append` takes it as `after`."""
    values: Mapping[bytes, bytes]
    """The last value of each key; keys whose last value is a tombstone are absent."""


class Ledger(Protocol):
    """Compare-and-append over one state topic, together with records for other topics.

    At most one writer's view can be current: every call starts a producer, which fences all earlier writers of the
    role.
    """

    async def recover(self) -> Recovered:
        """Fence earlier writers, then read the state. Raises CheckpointLost where the topic is gone."""

    async def append(self, after: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction, if the state topic holds nothing at or above `after`.

        Returns the new position. Raises Superseded (nothing was sent), CheckpointLost (the topic is gone or shorter
        than `after`) or OutcomeUnknown (any other failure: drop everything in memory and recover).
        """


class AddressFeed(Protocol):
    """The published addresses: each record of the topic is handed out once, in the order of its partition.

    An address may come again, for a repeated command repeats its record.
    """

    def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        """Every address not handed out yet, up to the last stable offsets as they stand after this call began.

        In batches of a bounded size, none empty. Who begins after fetching a block and reads to the end holds every
        address that anybody can have paid in that block. Who stops before, by an error or his own will, goes on behind
        the last batch with the next call. Raises TopicsMisconfigured where the topic is not the one that it was.
        """


class Lock(Protocol):
    """A lock with a time to live. It saves work; the ledger, not the lock, keeps the books right."""

    async def acquire(self) -> bool:
        """Try once. True where this process now holds the lock."""

    async def renew(self) -> bool:
        """Extend the time to live. False where the lock belongs to somebody else by now."""

    def is_held(self) -> bool:
        """Whether the deadline, counted from before the last acquire or renewal was sent, lies ahead. Never blocks."""

    async def release(self) -> None:
        """Give the lock up, if it is still ours. Never raises: the time to live does the rest."""


@dataclass(frozen=True)
class SpanClaim:
    """A span that a scanner holds, for as long as it renews the claim."""

    cut: str
    task: str
    """The board's name of the offer; the same span offered again has another."""
    span: bytes


@dataclass(frozen=True)
class PutBack:
    """What came back for an offer."""

    scanner: str
    """Who put it back."""
    result: bytes


class SpanBoard(Protocol):
    """Where the sequencer offers spans and scanners take them. One object stands for one process.

    It saves work and nothing else: everything on it may vanish at any time, and whoever reads from it checks what it
    reads. Texts are opaque to the board. At most SPANS_POSTED_MAX offers are open at once.
    """

    @property
    def scanner(self) -> str:
        """The name of this process on the board: never used before."""

    # the sequencer's side

    async def open(self, terms: bytes) -> str:
        """Begin a cut in place of whatever was there. Returns its name, which was never used before."""

    async def announce(self, cut: str, terms: bytes) -> bool:
        """Renew the cut's life, and the terms. False where the cut is gone: wiped, expired, or replaced by another."""

    async def post(self, cut: str, span: bytes) -> str | None:
        """Offer a span. Returns the offer's name; None where the cut is gone or the board is full."""

    async def take(self, cut: str, task: str) -> PutBack | None:
        """Take an offer's result and end the offer; None (and nothing is changed) while there is no result."""

    async def withdraw(self, cut: str, task: str) -> None:
        """End an offer, whatever became of it."""

    async def close(self, cut: str) -> None:
        """End a cut. Changes nothing where another has taken its place."""

    # the scanner's side

    async def terms(self) -> tuple[str, bytes] | None:
        """The cut that stands now, and its terms; None where there is none."""

    async def claim(self, cut: str) -> SpanClaim | None:
        """Hold a span that nobody holds: one whose holder did not renew its claim in time before a new one.

        While a holder renews in time nobody else is given its span. None where there is nothing to do.
        """

    async def renew(self, claim: SpanClaim) -> bool:
        """Go on holding. False where the claim is somebody else's by now, or its offer has ended."""

    async def hand_back(self, claim: SpanClaim) -> None:
        """Hold it no longer: the next to ask is given it. Changes nothing where the claim is somebody else's by now."""

    async def put_back(self, claim: SpanClaim, result: bytes) -> bool:
        """Answer an offer. False where it was answered before, or has ended: then nothing is changed."""


@dataclass(frozen=True)
class CommandMessage:
    """One message of the topic `command`, as it came."""

    topic: str
    """The topic's full name, prefix included."""
    partition: int
    offset: int
    timestamp_ms: int
    """Milliseconds since the Unix epoch, as the broker stored it."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """In a name that was not UTF-8 stands SUB (0x1a) for every byte that is not ASCII."""


class CommandQueue(Protocol):
    """The `command` partitions assigned to this process, each with its own transactional producer."""

    async def next_batch(self, timeout_seconds: float) -> Sequence[CommandMessage]:
        """Up to 500 messages of one partition, in order; empty after the time-out.

        Raises KafkaUnreachable after any failure behind which an assignment may be half made: the process must then
        exit.
        """

    async def start(self) -> None:
        """Join the group. Nothing is assigned before."""

    @property
    def assigned_partitions(self) -> Sequence[int]:
        """The partitions that are assigned at the moment."""

    async def commit(self, batch: Sequence[CommandMessage], records: Sequence[Record]) -> None:
        """Write the records and the batch's consumption in one transaction. After any error the process must exit."""


class OrderFeed(Protocol):
    """The topic `orders`, `read_committed`. A topic that is not there holds no orders; that is no error."""

    async def read(self, position: int) -> Sequence[OrderMessage]:
        """Up to 100 messages at and above an offset, as the topic stands after this call began; none where it is new.

        Where the topic was made anew, and ends below the position, it is read from its beginning.
        """


class PublishedEvents(Protocol):
    """Everything that was ever said on `transaction`, `read_committed`."""

    def read(self) -> AsyncIterator[Sequence[PublishedRecord]]:
        """All records, in batches, up to the topic's end as it stands after the first batch was asked for.

        Open transactions below that end are waited for, so nothing that was written before is missing; raises
        KafkaUnreachable where one stays open. In order within a partition.
        """


class StateView(Protocol):
    """Read-only sight of the state topic: starts no producer and fences nobody."""

    async def read(self) -> Mapping[bytes, bytes]:
        """The last committed value of each key, tombstones left out; empty where the topic is empty or not there yet.

        A commit returns before its marker is written, so what was committed a moment ago may not be in it yet.
        """


@dataclass(frozen=True)
class TopicPlan:
    """A topic as the wallet needs it."""

    name: str
    """Without the wallet's prefix."""
    partitions: int
    config: Mapping[str, str]
    """Topic settings that it is made with, by Kafka's names."""
    replication_factor: int


@dataclass(frozen=True)
class TopicState:
    """A topic as it is."""

    partitions: int
    config: Mapping[str, str]
    replication_factor: int
    """Replicas of the partition that has the fewest."""
    is_empty: bool
    """Whether it holds no committed record."""


class TopicAdmin(Protocol):
    """The wallet's topics."""

    async def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """Those of the named topics that exist."""

    async def create(self, plans: Sequence[TopicPlan]) -> None:
        """Create topics; one that has come into being meanwhile is no error."""


class SecretFile(Protocol):
    """A key of a Kubernetes Secret, mounted as a file."""

    def read(self) -> str:
        """The content without surrounding white space. Raises SecretMissing `<name>/<key>`."""
