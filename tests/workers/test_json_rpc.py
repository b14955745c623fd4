"""HTTP statuses with a JSON-RPC error behind them."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from stub_node import KEY, Make, Seen, Stub, assert_no_secret, nodes_of
from wallet_core.errors import RpcUnreachable
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.json_rpc import REFUSAL_BYTES_MAX, Fault

TRACING = {"debug_traceBlockByHash", "trace_block"}


@pytest.fixture
async def stub(make_stub: Make) -> Stub:
    return await make_stub()


def refuse_traces(stub: Stub, status: int, body: object) -> None:
    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body, status=status) if call["method"] in TRACING else stub.answer(call)

    stub.respond = respond


def no_such_method(more: str = "") -> object:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found" + more}}


@pytest.mark.parametrize("status", [400, 403, 404, 405])
async def test_a_method_refused_by_a_status_is_one_that_the_node_lacks(
    status: int, stub: Stub, clock: FakeClock, seen: Seen
) -> None:
    """A provider's plan without traces costs no deposit by `to`: its blocks are scanned without traces."""
    refuse_traces(stub, status, no_such_method())
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        block = await nodes.block(1)
        assert await nodes.frames(block) is None
        assert nodes.endpoints_status()[0].traces == "none"
    assert seen.faults == []


@pytest.mark.parametrize("status", [401, 402, 429, 500])
async def test_a_status_about_the_asker_or_the_moment_says_nothing_of_the_method(
    status: int, stub: Stub, clock: FakeClock, seen: Seen
) -> None:
    """No key, no credits, too often, broken: that may end, and nothing is scanned without its traces meanwhile."""
    refuse_traces(stub, status, no_such_method())
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        block = await nodes.block(1)
        with pytest.raises(RpcUnreachable, match=f"HTTP status {status}$"):
            await nodes.frames(block)
    assert seen.faults == [(1, Fault.HTTP)]


@pytest.mark.parametrize("body", ["Forbidden", {"error": "Forbidden"}, no_such_method("!" * REFUSAL_BYTES_MAX)])
async def test_a_status_without_a_json_rpc_error_is_no_answer(
    body: object, stub: Stub, clock: FakeClock, seen: Seen
) -> None:
    """A proxy's page, or more than anybody needs to say no."""
    refuse_traces(stub, 403, body)
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        block = await nodes.block(1)
        with pytest.raises(RpcUnreachable, match=r"HTTP status 403$"):
            await nodes.frames(block)
    assert seen.faults == [(1, Fault.HTTP)]


async def test_what_a_refusal_says_is_shown_without_the_key(stub: Stub, clock: FakeClock, seen: Seen) -> None:
    """It comes from the node, which knows the key; status, code and text tell people what to do."""
    refuse_traces(stub, 403, {"id": None, "error": {"code": -32000, "message": f"not for {KEY}"}})
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        block = await nodes.block(1)
        with pytest.raises(RpcUnreachable, match=r"HTTP status 403, error -32000: not for …") as raised:
            await nodes.frames(block)
        assert_no_secret(raised.value, nodes.endpoints_status())
    assert seen.faults == [(1, Fault.RPC_ERROR)]
