"""What was last said of each transfer: the topic `transaction`, folded by `event_id`.

The last event of an id is the one with the largest `sequence`, so events may be folded in any order: while the topic is
read, the leader goes on saying things, and both meet here.

**What is no event of ours** is never believed, and never in the way: records of another `type` are others' business (a
sweep's events come on the same topic), and what cannot be read at all is passed over, counted by who reads.

**Memory.** About 0.4 kB a transfer, and 2 kB more for each whose last event is kept whole: those above block
`whole_above`, which a rewind may have to take back. It is held only while an order needs it. Beyond
`PUBLISHED_TRANSFERS_MAX` an order is refused rather than the process killed half-way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from pydantic import ValidationError

from wallet_core.chain import BlockRef
from wallet_core.deposits import Status
from wallet_core.errors import OrderRefused
from wallet_core.messages import TransactionEvent

PUBLISHED_TRANSFERS_MAX = 5_000_000
"""Transfers that are held at once: 2 GB."""


@dataclass(frozen=True, slots=True)
class PublishedRecord:
    """One record of the topic `transaction`, as it came."""

    partition: int
    offset: int
    timestamp_ms: int
    """Milliseconds since the Unix epoch, as its writer's clock had it."""
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Said:
    """The last event of one transfer."""

    sequence: int
    status: str
    block_number: int
    block_hash: str
    event: TransactionEvent | None
    """The whole event, where the block is above `Published.whole_above`."""

    @property
    def is_live(self) -> bool:
        """Whether it says that the transfer is in the chain."""
        return self.status != "orphaned"


class Published:
    """The last event of every transfer."""

    def __init__(self, *, whole_above: int | None = None) -> None:
        """`whole_above`: the block above which last events are kept whole; None: nowhere."""
        self.whole_above = whole_above
        self.sequence = 0
        """The largest one that was ever used."""
        self.newest_timestamp_ms = 0
        """Of the records that were taken in, the newest one's time; milliseconds since the Unix epoch."""
        self._said: dict[str, Said] = {}
        self._whole: dict[int, set[str]] = {}
        # The ids whose last event is kept whole, by its block's number.

    def add(self, record: PublishedRecord) -> bool:
        """Take in one record. False where it is none that this wallet wrote."""
        if not self.add_value(record.value):
            return _is_of_another_type(record.value)
        self.newest_timestamp_ms = max(self.newest_timestamp_ms, record.timestamp_ms)
        return True

    def add_value(self, value: bytes | None) -> bool:
        """Take in one record's value. False where it is no deposit's event."""
        try:
            event = TransactionEvent.model_validate_json(value or b"")
        except ValidationError:
            return False
        self.note(event)
        return True

    def note(self, event: TransactionEvent) -> None:
        """Take in one event."""
        self.sequence = max(self.sequence, event.sequence)
        before = self._said.get(event.event_id)
        if before is not None and before.sequence >= event.sequence:
            return
        whole = self.whole_above is not None and event.block_number > self.whole_above
        if before is not None and before.event is not None:
            self._whole[before.block_number].discard(event.event_id)
        if whole:
            self._whole.setdefault(event.block_number, set()).add(event.event_id)
        self._said[event.event_id] = Said(
            event.sequence, event.status, event.block_number, event.block_hash, event if whole else None
        )

    def check_size(self) -> None:
        """Raises OrderRefused where there are more transfers than an order may hold."""
        if len(self._said) > PUBLISHED_TRANSFERS_MAX:
            raise OrderRefused(f"more than {PUBLISHED_TRANSFERS_MAX} transfers were published: too many to hold")

    def last(self, event_id: str) -> Said | None:
        """The last event of a transfer; None where nothing was said of it."""
        return self._said.get(event_id)

    def live_blocks(self) -> list[int]:
        """The blocks above `whole_above` that last events put transfers into, lowest first."""
        return sorted(number for number in self._whole if any(True for _ in self.live_in(number)))

    def live_in(self, number: int) -> Iterator[Said]:
        """Last events that put a transfer into the block of that number, which is above `whole_above`."""
        return (said for said in map(self._said.__getitem__, self._whole.get(number, ())) if said.is_live)

    def live_refs(self, up_to: int | None = None) -> list[BlockRef]:
        """The blocks that last events put transfers into, lowest first, each number once; all, or up to a number."""
        hashes = {
            said.block_number: said.block_hash
            for said in self._said.values()
            if said.is_live and (up_to is None or said.block_number <= up_to)
        }
        return [BlockRef(number, hashes[number]) for number in sorted(hashes)]

    @property
    def newest_live_block(self) -> int | None:
        """The highest block that a last event puts a transfer into."""
        return max((said.block_number for said in self._said.values() if said.is_live), default=None)

    @property
    def oldest_detected_block(self) -> int | None:
        """The lowest block with a transfer that is not confirmed yet."""
        return min((said.block_number for said in self._said.values() if said.status == Status.DETECTED), default=None)

    def __len__(self) -> int:
        return len(self._said)


class _Typed(msgspec.Struct):
    type: str


def _is_of_another_type(value: bytes | None) -> bool:
    try:
        return msgspec.json.decode(value or b"", type=_Typed).type != "deposit"
    except (msgspec.MsgspecError, ValueError):
        return False
