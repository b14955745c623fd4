"""Endpoints that keep no connection: believed between two proofs of their chain, and never where one fails."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from balancer import Balancer
from stub_node import Make, Respond, Seen, Stub, new_chain, nodes_of
from wallet_core.errors import RpcUnreachable, WrongChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.json_rpc import Fault

OTHER_CHAIN_ID = 99


def closing(stub: Stub) -> Respond:
    """As many proxies do: every answer ends its connection, and says so."""

    async def close(call: dict[str, Any]) -> web.StreamResponse:
        response = stub.answer(call)
        response.force_close()
        return response

    return close


def closing_in_turn(stub: Stub) -> Respond:
    """Every second answer ends its connection."""
    close, asked = closing(stub), 0

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await close(call) if asked % 2 else stub.answer(call)

    return respond


async def test_an_endpoint_that_keeps_no_connection_can_be_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Its chain is proved before each question and after it, and a warning tells once."""
    stub = await make_stub()
    stub.respond = closing(stub)
    with capture_logs() as logs:
        async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
            assert (await nodes.head()).tip == stub.chain.tip
            stub.methods.clear()
            assert (await nodes.block(1)).header == stub.chain.blocks[1].header
            assert stub.methods[-2:] == ["eth_chainId", "eth_getBlockByNumber"]
            assert await nodes.header(2) == stub.chain.blocks[2].header
    assert [each["event"] for each in logs] == ["endpoint_keeps_no_connection"]
    assert seen.faults == []


async def test_without_connections_another_chain_is_not_believed(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """One that became another chain since its last proof fails the next one, and its answer is dropped."""
    right, wrong = await make_stub(), await make_stub(new_chain(OTHER_CHAIN_ID))
    right.respond, wrong.respond = closing(right), closing(wrong)
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        await nodes.head()
        balancer.choose = lambda: wrong
        with pytest.raises(WrongChain):
            await nodes.header(1)
    assert seen.faults == [(1, Fault.WRONG_CHAIN)]


async def test_without_connections_an_error_of_another_chain_is_not_believed(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Not to have a block is an answer, too."""
    right, wrong = await make_stub(), await make_stub(new_chain(OTHER_CHAIN_ID))
    right.respond, wrong.respond = closing(right), closing(wrong)
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        await nodes.head()
        balancer.choose = lambda: wrong
        with pytest.raises(WrongChain):
            await nodes.header(wrong.chain.tip.number + 1)


async def test_connections_too_short_for_a_proof_are_not_believed(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Some kept and some not, never long enough: the answers may be different nodes'. The error names the remedy."""
    stub = await make_stub()
    stub.respond = closing_in_turn(stub)
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(RpcUnreachable, match=r"no connection lasts for a proof .* keep-alive"):
            await nodes.head()
    assert seen.faults == [(1, Fault.CONNECT)]
