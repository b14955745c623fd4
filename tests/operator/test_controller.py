"""The loops that look at wallets: resync, back-off, and that one wallet's fault does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from virtual_time import LoopClock, in_virtual_time, until
from wallet_operator.api import ApiUnreachable
from wallet_operator.controller import LOOKS_AT_ONCE_MAX, PAUSE_SECONDS_MAX, Controller
from wallet_operator.kinds import Key
from wallet_operator.metrics import Metrics
from wallet_operator.queue import Ask, Queue

A, B = ("wallets", "a"), ("wallets", "b")


class Looks:
    """A reconciler that notes who was looked at when, and fails as it is told to."""

    def __init__(self, *keys: Key) -> None:
        self.keys = set(keys)
        self.made: list[tuple[float, Key, Ask]] = []
        self.faults: dict[Key, Exception] = {}
        self.list_fault: Exception | None = None
        self.again: float | None = 10.0
        self.seconds = 0.0
        self.at_once: dict[Key, int] = {}
        self.at_once_max = 0

    async def list_wallets(self) -> set[Key]:
        if self.list_fault:
            raise self.list_fault
        return self.keys

    async def look(self, key: Key, ask: Ask) -> float | None:
        self.made.append((asyncio.get_running_loop().time(), key, ask))
        self.at_once[key] = self.at_once.get(key, 0) + 1
        assert self.at_once[key] == 1, "two looks at one wallet"
        self.at_once_max = max(self.at_once_max, sum(self.at_once.values()))
        try:
            await asyncio.sleep(self.seconds)
            if fault := self.faults.get(key):
                raise fault
            return self.again
        finally:
            self.at_once[key] -= 1

    def times(self, key: Key, ask: Ask | None = None) -> list[float]:
        return [round(at, 1) for at, found, asked in self.made if found == key and ask in {None, asked}]


@asynccontextmanager
async def running(looks: Looks, metrics: Metrics | None = None) -> AsyncIterator[tuple[Queue, list[float]]]:
    queue, resyncs = Queue(), list[float]()
    controller = Controller(
        queue,
        looks,
        metrics or Metrics(),
        LoopClock(),
        resync_seconds=60,
        resynced=lambda: resyncs.append(asyncio.get_running_loop().time()),
    )
    task = asyncio.create_task(controller.run())
    try:
        yield queue, resyncs
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@in_virtual_time
async def test_a_quiet_wallet_causes_few_looks() -> None:
    """A reconcile a minute and a look every ten seconds: fewer than 10 a minute together."""
    looks = Looks(A)
    async with running(looks) as (_, resyncs):
        await asyncio.sleep(179)
    assert looks.times(A, Ask.RECONCILE) == [0, 60, 120]
    assert looks.times(A, Ask.LOOK)[:5] == [10, 20, 30, 40, 50]
    assert len(looks.made) / 3 < 10
    assert resyncs == [0, 60, 120]


@in_virtual_time
async def test_a_wallet_that_fails_is_tried_again_with_growing_pauses() -> None:
    """As thoroughly as it was asked for, and the others do not notice."""
    looks, metrics = Looks(A, B), Metrics()
    looks.faults[A] = ApiUnreachable("busy")
    async with running(looks, metrics) as (queue, _):
        await asyncio.sleep(50)
        assert looks.times(A, Ask.RECONCILE) == [0, 1, 3, 7, 15, 31]
        assert looks.times(B) == [0, 10, 20, 30, 40, 50] or looks.times(B) == [0, 10, 20, 30, 40]
        del looks.faults[A]
        await asyncio.sleep(20)
        looks.faults[A] = ApiUnreachable("busy")
        looks.made.clear()
        queue.add(A, Ask.LOOK)
        await asyncio.sleep(2)
        first, second = looks.times(A)[:2]
        assert second - first == 1, "after a success the pauses are short again"
    labels = {"error_code": "api_unreachable"}
    assert (metrics.registry.get_sample_value("wallet_operator_failures_total", labels) or 0) > 6


@in_virtual_time
async def test_a_fault_of_our_own_does_not_stop_the_loop() -> None:
    """It is counted and tried again, and the pauses end growing."""
    looks, metrics = Looks(A, B), Metrics()
    looks.faults[A] = ZeroDivisionError()
    async with running(looks, metrics):
        await asyncio.sleep(600)
    assert len(looks.times(B)) > 50
    gaps = [after - before for before, after in zip(looks.times(A), looks.times(A)[1:], strict=False)]
    assert max(gaps) <= PAUSE_SECONDS_MAX + 0.1
    labels = {"error_code": "internal_error"}
    assert (metrics.registry.get_sample_value("wallet_operator_failures_total", labels) or 0) > 10


@in_virtual_time
async def test_a_resync_that_fails_is_made_again_soon() -> None:
    """And is not said to have happened: `/live` rests on it."""
    looks = Looks(A)
    looks.list_fault = ApiUnreachable("away")
    async with running(looks) as (_, resyncs):
        await asyncio.sleep(12)
        assert resyncs == []
        looks.list_fault = None
        await until(lambda: looks.made)
        assert [round(at) for at in resyncs] == [15]


@in_virtual_time
async def test_a_wallet_that_is_gone_is_not_looked_at_again() -> None:
    """Until somebody adds it."""
    looks = Looks(A)
    looks.again = None
    async with running(looks) as (queue, _):
        await until(lambda: looks.made)
        looks.keys = set()
        await asyncio.sleep(300)
        assert len(looks.made) == 1
        queue.add(A, Ask.RECONCILE)
        await until(lambda: len(looks.made) == 2)


@in_virtual_time
async def test_many_wallets_are_looked_at_side_by_side() -> None:
    """A slow worker does not hold up the other wallets; the API server is not flooded either."""
    looks = Looks(*(("wallets", f"w{number}") for number in range(50)))
    looks.seconds = 2.0
    async with running(looks):
        await asyncio.sleep(30)
    assert len({key for _, key, _ in looks.made}) == 50
    assert looks.at_once_max == LOOKS_AT_ONCE_MAX
