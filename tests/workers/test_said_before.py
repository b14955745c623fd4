"""What was said before is in memory only as long as somebody needs it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from wallet_core.errors import KafkaUnreachable
from wallet_core.published import Published, PublishedRecord
from wallet_core.settings import Role
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.said_before import SaidBefore
from wallet_workers.status import WorkerStatus


class Unending:
    """One batch of events, then none until the reader is ended; or Kafka is away."""

    def __init__(self, *, fails: bool = False) -> None:
        self.is_read = asyncio.Event()
        self._fails = fails

    async def read(self) -> AsyncIterator[Sequence[PublishedRecord]]:
        yield []
        self.is_read.set()
        if self._fails:
            raise KafkaUnreachable("away")
        await asyncio.Event().wait()


def said_before(events: Unending) -> SaidBefore:
    return SaidBefore(events, WorkerStatus(Role.SYNC, "w", "hash", FakeClock()))


def held() -> int:
    gc.collect()
    return sum(isinstance(each, Published) for each in gc.get_objects())


async def test_a_cancelled_load_holds_nothing() -> None:
    """What it had read may be gigabytes, and the leader goes on with other work."""
    events = Unending()
    said = said_before(events)
    loading = asyncio.create_task(said.load(None))
    await events.is_read.wait()
    before = held()
    loading.cancel()
    await asyncio.wait([loading])  # an error that is raised here would keep the frames, and what they hold
    assert loading.cancelled()
    del loading
    assert held() == before - 1
    assert said.published is None


async def test_a_load_that_failed_holds_nothing() -> None:
    """Whatever ended it, a refusal for its size too."""
    before = held()
    said = said_before(Unending(fails=True))
    with suppress(KafkaUnreachable):
        await said.load(None)
    assert held() == before
    assert said.published is None
