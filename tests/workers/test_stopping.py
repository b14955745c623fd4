"""Waiting that gives way to the wish to stop."""

from __future__ import annotations

import asyncio

import pytest

from virtual_time import LoopClock, in_virtual_time
from wallet_workers.stopping import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, BackOff, Stopping


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_pause_lasts_as_long_as_asked() -> None:
    """Without a stop every wait is what its caller says."""
    stopping = Stopping(LoopClock())
    await stopping.pause(60)
    assert now() == pytest.approx(60)
    assert not stopping


@in_virtual_time
async def test_a_stop_ends_a_pause_at_once() -> None:
    """SIGTERM drains within seconds, however long the worker meant to wait."""
    stopping = Stopping(LoopClock())
    asyncio.get_running_loop().call_later(2, stopping.request)
    await stopping.pause(3600)
    assert now() == pytest.approx(2)
    assert stopping
    await stopping.pause(3600)
    await stopping.wait()
    assert now() == pytest.approx(2)


@in_virtual_time
async def test_a_wait_that_is_given_up_is_cancelled() -> None:
    """Nothing of it runs on after the stop."""
    stopping, ended = Stopping(LoopClock()), []

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(now())
            raise

    asyncio.get_running_loop().call_later(2, stopping.request)
    await stopping.first_of(wait())
    assert ended == [pytest.approx(2)]
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_an_error_of_the_wait_reaches_its_caller() -> None:
    """A failure is not taken for the end of the wait."""
    stopping = Stopping(LoopClock())

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stopping.first_of(fail())


@in_virtual_time
async def test_a_cancelled_caller_leaves_nothing_behind() -> None:
    """A process that is torn down has no orphaned waits."""
    stopping = Stopping(LoopClock())
    task = asyncio.create_task(stopping.pause(3600))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_pauses_between_tries_double_up_to_a_limit_and_begin_again_after_a_success() -> None:
    """A service that is down is not hammered, and one that is back is not waited for."""
    back_off, pauses = BackOff(Stopping(LoopClock())), []
    for _ in range(9):
        before = now()
        await back_off.pause()
        pauses.append(now() - before)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])
    assert (pauses[0], pauses[-1]) == pytest.approx((RETRY_SECONDS_MIN, RETRY_SECONDS_MAX))
    back_off.reset()
    before = now()
    await back_off.pause()
    assert now() - before == pytest.approx(RETRY_SECONDS_MIN)
