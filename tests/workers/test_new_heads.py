"""Announcements wake who waits, and nothing depends on them."""

from __future__ import annotations

import asyncio

from stub_node import SHORT_SECONDS, Make, Seen, nodes_of, until
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MIN


async def test_an_announcement_wakes_the_waiter(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A pushed head ends the wait long before its time-out."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        await until(lambda: nodes.endpoints_status()[0].announces_heads)
        heads = await nodes.wait_for_head(3_600, 0)  # the subscription itself: heads before it may have been missed
        waiting = asyncio.create_task(nodes.wait_for_head(3_600, heads))
        await asyncio.sleep(0)
        assert not waiting.done()
        await stub.announce()
        assert await waiting == heads + 1


async def test_an_announcement_wakes_every_waiter(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """However many wait, each is woken, and none takes a head from another."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        heads = await nodes.wait_for_head(3_600, 0)
        waiting = [asyncio.create_task(nodes.wait_for_head(3_600, heads)) for _ in range(3)]
        await asyncio.sleep(0)
        await stub.announce()
        assert await asyncio.gather(*waiting) == [heads + 1] * 3
        assert await nodes.wait_for_head(3_600, heads) == heads + 1  # who was busy is woken at once


async def test_an_announcement_between_two_waits_is_not_lost(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A head that comes while the last one is worked on ends the next wait at once, and only that one."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        await until(lambda: bool(stub.sockets))
        heads = await nodes.wait_for_head(3_600, 0)
        await stub.announce()
        later = await nodes.wait_for_head(3_600, heads)
        assert later == heads + 1
        assert await nodes.wait_for_head(0.01, later) == later


async def test_a_silent_websocket_stops_nothing(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A node that never answers the subscription: every wait ends by its time-out, and the silence is told."""
    stub = await make_stub()
    stub.subscribes = False
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen, timeout=SHORT_SECONDS) as nodes:
        await nodes.wait_for_head(0.01, 0)
        assert (await nodes.head()).tip == stub.chain.tip
        await until(lambda: nodes.endpoints_status()[0].announcement_error == "no answer in time")
        assert not nodes.endpoints_status()[0].announces_heads
        assert nodes.endpoints_status()[0].is_usable


async def test_a_quiet_subscription_stays(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Once it stands, no head for longer than a request may take is no reason to subscribe again."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen, timeout=SHORT_SECONDS) as nodes:
        await until(lambda: nodes.endpoints_status()[0].announces_heads)
        heads = await nodes.wait_for_head(3_600, 0)
        assert await nodes.wait_for_head(2 * SHORT_SECONDS, heads) == heads
        status = nodes.endpoints_status()[0]
        assert (status.announces_heads, status.announcement_error) == (True, None)


async def test_a_lost_websocket_is_opened_again(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """After a pause the subscription stands again, and announces."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        await until(lambda: bool(stub.sockets))
        heads = await nodes.wait_for_head(3_600, 0)
        await stub.stop()
        await until(lambda: nodes.endpoints_status()[0].announcement_error is not None)
        await stub.start()
        clock.advance(BACKOFF_SECONDS_MIN)
        await nodes.wait_for_head(3_600, heads)
        assert nodes.endpoints_status()[0].announces_heads


async def test_without_a_websocket_waiting_is_polling(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The wait ends by its time-out alone, and no task runs for it."""
    stub = await make_stub()
    tasks_before = asyncio.all_tasks()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert asyncio.all_tasks() == tasks_before
        await nodes.wait_for_head(0.01, 0)
        assert not nodes.endpoints_status()[0].announces_heads
