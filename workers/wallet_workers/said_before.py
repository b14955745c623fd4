"""What was said before, in memory while an order or a replay needs it.

Read from `transaction` once, then kept up to date with what the leader itself says: nobody else writes there as long as
it leads. After any doubt it is forgotten with everything else, and read again when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from wallet_core.messages import Record, Topic
from wallet_core.ports import PublishedEvents
from wallet_core.published import Published
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

FOREIGN_LOGGED_MAX = 20
"""Places of records of others that one reading logs; all are counted."""


class SaidBefore:
    """See the module. One load at a time."""

    def __init__(self, events: PublishedEvents, status: WorkerStatus) -> None:
        self._events = events
        self._status = status
        self._published: Published | None = None
        self._filling: Published | None = None

    async def load(self, whole_above: int | None, *, limited: bool = True) -> Published:
        """The last event of every transfer, kept whole above that block where it is given.

        Raises OrderRefused where they are `limited` and too many to hold, KafkaUnreachable, TopicsMisconfigured.
        """
        if self._published is not None and _suffices(self._published, whole_above):
            return self._published
        self._published = None
        filling = self._filling = Published(whole_above=whole_above)
        try:
            foreign = await self._fill(filling, limited=limited)
            self._published = filling
        finally:
            self._filling = None  # what a refused or cancelled load has read so far may be gigabytes
        log.info("published_events_read", transfers=len(filling), sequence=filling.sequence, foreign_records=foreign)
        return filling

    async def _fill(self, filling: Published, *, limited: bool) -> int:
        """Returns how many records of others there are."""
        foreign = 0
        async for records in self._events.read():
            self._status.beat()
            for record in records:
                if not filling.add(record):
                    foreign += 1
                    if foreign <= FOREIGN_LOGGED_MAX:
                        log.warning("foreign_record_on_transaction", partition=record.partition, offset=record.offset)
            if limited:
                filling.check_size()
        return foreign

    @property
    def published(self) -> Published | None:
        """What was loaded; None before, and after it was forgotten."""
        return self._published

    def note(self, records: Sequence[Record]) -> None:
        """Take in what has just been said."""
        for published in (self._published, self._filling):
            if published is not None:
                for record in records:
                    if record.topic is Topic.TRANSACTION:
                        published.add_value(record.value)

    def forget(self) -> None:
        """Free the memory."""
        self._published = self._filling = None


def _suffices(published: Published, whole_above: int | None) -> bool:
    if whole_above is None:
        return True
    return published.whole_above is not None and published.whole_above <= whole_above
