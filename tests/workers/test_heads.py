"""Whose head leads where one stands still: the others are looked at again, and so are other nodes behind one URL."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from balancer import Balancer
from stub_node import Make, Respond, Seen, Stub, nodes_of, until
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MAX
from wallet_workers.adapters.json_rpc import Fault

STALE_SECONDS = 60


def by_clock(stub: Stub, clock: FakeClock) -> Respond:
    """Timestamps of our time: what is stale is so because it stands still."""

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        found = stub.result(call)
        if isinstance(found, dict):
            found["timestamp"] = hex(int(clock.unix_time()))
        return web.json_response({"id": call["id"], "result": found})

    return respond


def mine(stub: Stub, blocks: int) -> None:
    stub.chain.mine_empty(blocks)
    stub.tags["latest"] = stub.chain.tip.number


async def stuck_and_beyond(make_stub: Make, clock: FakeClock) -> tuple[Stub, Stub]:
    """Two nodes of one chain, of which the second will not go on."""
    first = await make_stub()
    second = await make_stub(first.chain.snapshot())
    first.respond, second.respond = by_clock(first, clock), by_clock(second, clock)
    return first, second


async def test_who_was_away_leads_again_where_the_other_stands_still(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """The second one served meanwhile, and got stuck before the first was proved again."""
    first, stuck = await stuck_and_beyond(make_stub, clock)
    async with nodes_of(
        first.endpoint, stuck.endpoint, clock=clock, seen=seen, stale_after_seconds=STALE_SECONDS
    ) as nodes:
        await nodes.head()
        await first.stop()
        assert (await nodes.head()).tip == (await nodes.head()).tip
        clock.advance(STALE_SECONDS + 1)
        await nodes.head()
        assert (2, Fault.STALE) in seen.faults
        mine(first, 5)
        await first.start()
        clock.advance(BACKOFF_SECONDS_MAX)
        await nodes.head()
        await until(lambda: nodes.endpoints_status()[0].is_usable)
        assert (await nodes.head()).tip.number == first.chain.tip.number


async def test_a_stuck_node_behind_a_balancer_is_left(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The kept connection leads to it for ever; another one may lead to a node that goes on."""
    first, stuck = await stuck_and_beyond(make_stub, clock)
    async with (
        Balancer(lambda: stuck) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen, stale_after_seconds=STALE_SECONDS) as nodes,
    ):
        await nodes.head()
        balancer.choose = lambda: first
        mine(first, 5)
        await nodes.head()
        assert balancer.chosen == [stuck]
        clock.advance(STALE_SECONDS + 1)
        await nodes.head()
        assert (await nodes.head()).tip.number == first.chain.tip.number
        assert balancer.chosen == [stuck, first]


async def test_a_late_node_behind_a_balancer_is_left(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A tip that goes back may be another node's that is late: the next question goes over another connection."""
    first, late = await stuck_and_beyond(make_stub, clock)
    mine(first, 5)
    async with Balancer(lambda: first) as balancer, nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        balancer.choose = lambda: late
        balancer.break_connections()
        await nodes.head()
        assert seen.faults == [(1, Fault.TIP_BACK)]
        balancer.choose = lambda: first
        assert (await nodes.head()).tip.number == first.chain.tip.number
