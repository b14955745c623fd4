"""Each connection is proved over itself: nodes of two chains behind one URL, and connections that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from aiohttp import web
from yarl import URL

from balancer import Balancer
from stub_node import CHAIN_ID, Make, Seen, Stub, new_chain, nodes_of, until
from wallet_core.errors import RpcUnreachable, WrongChain
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MAX
from wallet_workers.adapters.channels import CHANNELS_MAX, Channels
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import ANSWER_BYTES_MAX, Fault

OTHER_CHAIN_ID = 99

T = TypeVar("T")


@pytest.fixture
async def right(make_stub: Make) -> Stub:
    return await make_stub()


@pytest.fixture
async def wrong(make_stub: Make) -> Stub:
    """Of another chain, and far ahead: what it says would be taken."""
    chain = new_chain(OTHER_CHAIN_ID)
    chain.mine_empty(500)
    return await make_stub(chain)


def error(call: dict[str, Any], code: int, message: str) -> web.StreamResponse:
    return web.json_response({"id": call["id"], "error": {"code": code, "message": message}})


async def beside(busy: Stub, nodes: EthereumNodes, question: Awaitable[T]) -> T:
    """The answer to a question while the connection to `busy`, used last before and afterwards, is taken."""
    free = asyncio.Event()

    async def hold(call: dict[str, Any]) -> web.StreamResponse:
        await free.wait()
        return busy.answer(call)

    asked, busy.respond = len(busy.methods), hold
    held = asyncio.create_task(nodes.header(1))
    await until(lambda: len(busy.methods) > asked)
    try:
        return await question
    finally:
        busy.respond = None
        free.set()
        await held


# --- two chains behind one URL ----------------------------------------------------------------------------------------


async def test_a_connection_to_another_chain_is_not_vouched_for_by_others(
    right: Stub, wrong: Stub, clock: FakeClock, seen: Seen
) -> None:
    """While the wrong node's first answer is on its way, connections to the right one fall free: none proves it."""
    are_held = asyncio.Event()

    async def hold(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][:1] in (["0x1"], ["0x2"]):
            await are_held.wait()
        return right.answer(call)

    async def release_others(call: dict[str, Any]) -> web.StreamResponse:
        are_held.set()
        await asyncio.wait(others)
        return wrong.answer(call)

    right.respond, wrong.respond = hold, release_others
    async with (
        Balancer(lambda: right if len(balancer.chosen) < len(others) else wrong) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        others = [asyncio.create_task(nodes.header(number)) for number in (1, 2)]
        await until(
            lambda: right.methods.count("eth_getBlockByNumber") == 2 * len(others)
        )  # block 0, then the question
        with pytest.raises(WrongChain, match=f"is of chain {OTHER_CHAIN_ID}"):
            await nodes.head()
        assert [(await other).number for other in others] == [1, 2]
        assert balancer.chosen == [right, right, wrong]
        assert set(wrong.methods) == {"eth_chainId"}
        balancer.choose = lambda: right
        for _ in range(CHANNELS_MAX):
            assert (await nodes.head()).tip == right.chain.tip
    assert seen.faults == [(1, Fault.WRONG_CHAIN)]


async def test_nobody_else_uses_a_connection_before_its_proof(
    right: Stub, wrong: Stub, clock: FakeClock, seen: Seen
) -> None:
    """Of many questions at once, over connections to both chains, none is answered by the wrong one."""
    async with (
        Balancer(lambda: (right, wrong)[len(balancer.chosen) % 2]) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        for _ in range(3):
            answers = await asyncio.gather(*(nodes.head() for _ in range(CHANNELS_MAX)), return_exceptions=True)
            heads = [answer for answer in answers if not isinstance(answer, WrongChain)]
            assert {head.tip.number for head in heads if not isinstance(head, BaseException)} <= {
                right.chain.tip.number
            }
            assert not [head for head in heads if isinstance(head, BaseException)]
            balancer.break_connections()
        assert wrong in balancer.chosen
        assert right in balancer.chosen


async def test_after_a_node_of_another_chain_another_connection_is_tried(
    right: Stub, wrong: Stub, clock: FakeClock, seen: Seen
) -> None:
    """A balancer may lead the next connection to the right node; the wrong one's is not kept."""
    async with (
        Balancer(lambda: wrong) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        with pytest.raises(WrongChain):
            await nodes.head()
        balancer.choose = lambda: right
        assert (await nodes.head()).tip == right.chain.tip
        assert balancer.chosen == [wrong, right]


async def test_a_proof_over_two_connections_proves_neither(
    right: Stub, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """A fork of our chain has our block 0: the chain id that another connection gave does not speak for it."""
    fork = await make_stub(right.chain.branch(2))

    async def close_after_the_id(call: dict[str, Any]) -> web.StreamResponse:
        response = right.answer(call)
        if call["method"] == "eth_chainId":
            response.force_close()
        return response

    async def differ_in_the_id(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] == "eth_chainId":
            return web.json_response({"id": call["id"], "result": hex(OTHER_CHAIN_ID)})
        return fork.answer(call)

    right.respond, fork.respond = close_after_the_id, differ_in_the_id
    async with (
        Balancer(lambda: fork if balancer.chosen else right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        with pytest.raises(WrongChain):
            await nodes.header(3)
        assert balancer.chosen == [right, fork]


# --- two branches behind one URL --------------------------------------------------------------------------------------


async def test_who_left_the_others_proves_every_connection_anew(
    right: Stub, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """What a connection proved before its node took another branch is worth nothing; the one beside it can be right."""
    odd, second, third = [await make_stub(right.chain) for _ in range(3)]
    agreed = right.chain.blocks[3].header
    async with (
        Balancer(lambda: odd if balancer.chosen else right) as balancer,
        nodes_of(balancer.endpoint, second.endpoint, third.endpoint, clock=clock, seen=seen, quorum=2) as nodes,
    ):
        await nodes.header(1)
        assert await beside(right, nodes, nodes.header(3)) == agreed
        odd.chain = right.chain.branch(2)
        assert await beside(right, nodes, nodes.agreed_header(3)) == agreed
        assert seen.faults == [(1, Fault.DISAGREES)]
        clock.advance(BACKOFF_SECONDS_MAX)
        assert await nodes.header(3) == agreed
        await until(lambda: nodes.endpoints_status()[0].is_usable)
        assert await beside(right, nodes, nodes.header(3)) == agreed
        assert balancer.chosen == [right, odd]
    assert seen.faults == [(1, Fault.DISAGREES)] * 2


async def test_a_vote_is_no_proof_of_the_branch(right: Stub, make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """To be asked what it has, a connection needs to be of our chain only; to be followed, of our branch too."""
    odd, second = await make_stub(right.chain.branch(2)), await make_stub(right.chain)
    agreed = right.chain.blocks[3].header
    async with (
        Balancer(lambda: odd if balancer.chosen else right) as balancer,
        nodes_of(balancer.endpoint, second.endpoint, clock=clock, seen=seen, quorum=2) as nodes,
    ):
        await nodes.header(1)
        assert await nodes.agreed_header(3) == agreed
        await beside(right, nodes, nodes.agreed_header(1))
        assert balancer.chosen == [right, odd]
        assert await beside(right, nodes, nodes.header(3)) == agreed
    assert seen.faults == [(1, Fault.DISAGREES)]


async def test_a_named_genesis_block_is_proved_over_every_connection(
    right: Stub, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """What was proved before anybody named one is worth nothing."""
    odd, second = await make_stub(FakeChain(CHAIN_ID, "elsewhere")), await make_stub(right.chain)
    odd.chain.mine_empty(3)
    async with (
        Balancer(lambda: odd if balancer.chosen else right) as balancer,
        nodes_of(balancer.endpoint, second.endpoint, clock=clock, seen=seen, quorum=2) as nodes,
    ):
        await nodes.header(1)
        assert await beside(right, nodes, nodes.header(3)) == odd.chain.blocks[3].header
        nodes.expect_genesis(right.chain.blocks[0].header.hash)
        await nodes.header(1)
        assert await beside(right, nodes, nodes.header(3)) == right.chain.blocks[3].header
    assert seen.faults == [(1, Fault.WRONG_GENESIS)]


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_of_another_chain_is_not_believed(
    right: Stub, wrong: Stub, clock: FakeClock, seen: Seen
) -> None:
    """ "No finalized block" is an answer too, and after it the connection is not held for a proved one."""

    async def without_finalized(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][:1] == ["finalized"]:
            return error(call, -32000, "finalized block not found")
        return wrong.answer(call)

    right.tags["finalized"] = 1
    wrong.respond = without_finalized
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes,
    ):
        assert (await nodes.head()).finalized == right.chain.blocks[1].header
        balancer.choose = lambda: wrong
        balancer.break_connections()
        with pytest.raises(WrongChain):
            await nodes.head()
    assert seen.faults == [(1, Fault.WRONG_CHAIN)]


async def test_not_found_of_another_chain_is_not_believed(
    right: Stub, wrong: Stub, clock: FakeClock, seen: Seen
) -> None:
    """It would be a late node's word, and the endpoint stay as usable as it was."""

    async def not_found(call: dict[str, Any]) -> web.StreamResponse:
        return wrong.answer(call) if call["method"] == "eth_chainId" else error(call, -32001, "block not found")

    wrong.respond = not_found
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        await nodes.header(1)
        balancer.choose = lambda: wrong
        balancer.break_connections()
        with pytest.raises(WrongChain):
            await nodes.header(1)
    assert seen.faults == [(1, Fault.WRONG_CHAIN)]


@pytest.mark.parametrize("refused", ["eth_chainId", "debug_traceBlockByHash"])
async def test_no_traces_is_believed_of_the_right_chain_only(
    refused: str, right: Stub, wrong: Stub, clock: FakeClock, seen: Seen
) -> None:
    """Another node's "no such method", be it to the question or to the proof, scans no block without its traces."""

    async def trace(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] != "debug_traceBlockByHash":
            return right.answer(call)
        frame = {"type": "CALL", "from": "0x" + "01" * 20, "to": "0x" + "02" * 20, "value": "0x1"}
        traced = [{"txHash": each.hash, "result": frame} for each in right.chain.blocks[1].transactions]
        return web.json_response({"id": call["id"], "result": traced})

    async def refuse(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] in {refused, "debug_traceBlockByHash", "trace_block"}:
            return error(call, -32601, f"the method {call['method']} does not exist/is not available")
        return wrong.answer(call)

    right.respond, wrong.respond = trace, refuse
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        block = await nodes.block(1)
        assert await nodes.frames(block)
        balancer.choose = lambda: wrong
        balancer.break_connections()
        with pytest.raises((WrongChain, RpcUnreachable)):
            await nodes.frames(block)
        balancer.choose = lambda: right
        balancer.break_connections()
        assert await nodes.frames(block)


# --- connections that come and go -------------------------------------------------------------------------------------


async def test_a_kept_connection_that_died_is_no_failure(right: Stub, clock: FakeClock, seen: Seen) -> None:
    """Servers close idle connections; the question is asked again on a new one, which proves itself."""
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        for connections in (1, 2, 3):
            assert (await nodes.head()).tip == right.chain.tip
            assert len(balancer.chosen) == connections
            assert right.methods.count("eth_chainId") == connections
            balancer.break_connections()
    assert seen.faults == []


async def test_an_answer_that_ends_its_connection_is_one_of_the_right_chain(
    right: Stub, clock: FakeClock, seen: Seen
) -> None:
    """A refused answer leaves no connection to prove; what counts is whether it was proved before."""

    async def pour(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][1:] != [True]:
            return right.answer(call)
        return web.Response(body=bytes(ANSWER_BYTES_MAX + 1))

    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        await nodes.head()
        right.respond = pour
        balancer.break_connections()
        with pytest.raises(Exception, match="more than"):
            await nodes.block(1)
    assert seen.faults == [(1, Fault.TOO_LARGE)]


async def test_questions_at_once_share_so_many_connections(right: Stub, clock: FakeClock, seen: Seen) -> None:
    """No more than the named maximum, each proved once, and who finds none free waits."""
    async with (
        Balancer(lambda: right) as balancer,
        nodes_of(balancer.endpoint, clock=clock, seen=seen) as nodes,
    ):
        await nodes.head()
        headers = await asyncio.gather(*(nodes.header(1) for _ in range(4 * CHANNELS_MAX)))
        assert set(headers) == {right.chain.blocks[1].header}
        assert len(balancer.chosen) == CHANNELS_MAX
        assert right.methods.count("eth_chainId") == CHANNELS_MAX
        for _ in range(5):
            await nodes.head()
        assert len(balancer.chosen) == CHANNELS_MAX


async def test_to_wait_for_a_free_connection_is_no_fault_of_the_endpoint() -> None:
    """Who finds none free waits longer than an endpoint may take for an answer, and then has one."""
    channels = Channels(URL("http://127.0.0.1:1"), request_timeout_seconds=0)

    async def take_one() -> None:
        async with channels.one():
            pass

    async with AsyncExitStack() as held:
        for _ in range(CHANNELS_MAX):
            await held.enter_async_context(channels.one())
        waiting = asyncio.create_task(take_one())
        for _ in range(10):  # turns of the loop: a limit of no seconds would be over
            await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    await channels.close()
