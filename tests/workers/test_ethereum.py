"""`EthereumNodes` against nodes that misbehave, over real connections on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from stub_node import (
    CHAIN_ID,
    FAULTS,
    KEY,
    SHORT_SECONDS,
    Make,
    Seen,
    assert_no_secret,
    fail,
    new_chain,
    nodes_of,
    refuse,
    speak_html,
    stall,
    until,
)
from wallet_core.errors import InvalidSetting, NodeInconsistent, RpcUnreachable, Unavailable, WrongChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import ANSWER_BYTES_MAX, Endpoint, Fault

# --- nodes that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FAULTS)
async def test_a_node_that_does_not_answer_is_unreachable(
    case: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """The error names endpoint and cause, is raised after one try, and shows no key."""
    stub = await make_stub()
    stub.respond, expected = FAULTS[case]
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, timeout=SHORT_SECONDS) as nodes:
        with pytest.raises(RpcUnreachable) as raised:
            await nodes.head()
        status = nodes.endpoints_status()[0]
        assert f"endpoint 1 ({stub.origin}): " in str(raised.value)
        assert (status.is_usable, status.origin) == (False, stub.origin)
        assert len(str(raised.value)) < 400
        assert_no_secret(raised.value, repr(raised.value), status, stub.endpoint, seen.changes)
    assert seen.faults == [(1, expected)]
    assert stub.methods == ["eth_chainId"]


@pytest.mark.parametrize("case", FAULTS)
async def test_a_node_that_fails_later_recovers_by_itself(
    case: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Once it answers again so is the next question, after a new proof of its chain; no pause stands in the way."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, timeout=SHORT_SECONDS) as nodes:
        await nodes.head()
        stub.respond, _ = FAULTS[case]
        with pytest.raises(RpcUnreachable):
            await nodes.head()
        stub.respond = None
        stub.methods.clear()
        assert (await nodes.head()).tip == stub.chain.tip
        assert stub.methods[0] == "eth_chainId"
        assert nodes.endpoints_status()[0].is_usable
        assert nodes.endpoints_status()[0].last_error is None
    assert [change.is_usable for change in seen.changes] == [True, False, True]


async def test_a_node_that_breaks_off_in_an_answer_is_unreachable(clock: FakeClock, seen: Seen) -> None:
    """Half an answer is none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id":1,"result":"0x539"}')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with nodes_of(Endpoint(f"http://127.0.0.1:{port}"), clock=clock, seen=seen) as nodes:
            with pytest.raises(RpcUnreachable, match="the connection broke"):
                await nodes.head()


async def test_an_answer_without_end_is_given_up(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Beyond the limit nothing more is read or kept; the next endpoint is asked, and alone it is said why."""
    endless, other = await make_stub(), await make_stub()

    async def pour(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] == "eth_chainId" or call["params"][0] == "0x0":
            return endless.answer(call)
        return web.Response(body=bytes(ANSWER_BYTES_MAX + 1), content_type="application/json")

    endless.respond = pour
    async with nodes_of(endless.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(NodeInconsistent, match=f"more than {ANSWER_BYTES_MAX} bytes"):
            await nodes.block(1)
        assert not nodes.endpoints_status()[0].is_usable
    async with nodes_of(endless.endpoint, other.endpoint, clock=clock, seen=seen) as nodes:
        assert await nodes.block(1) == other.chain.blocks[1]
    assert seen.faults == [(1, Fault.TOO_LARGE)] * 2


async def test_a_dead_node_is_unreachable_until_it_is_back(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Nobody listening is told at once, and a restart on the same port is found."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        await stub.stop()
        with pytest.raises(RpcUnreachable, match="no connection"):
            await nodes.head()
        await stub.start()
        assert (await nodes.head()).tip == stub.chain.tip
    assert {fault for _, fault in seen.faults} == {Fault.CONNECT}


# --- the right chain -------------------------------------------------------------------------------------------------


async def test_a_node_of_another_chain_is_never_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """It is asked for its chain id and nothing else; the error says where, what was expected and what was found."""
    stub = await make_stub(new_chain(chain_id=5))
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        for ask in (nodes.head, lambda: nodes.header(1), lambda: nodes.block(1)):
            with pytest.raises(WrongChain) as raised:
                await ask()
            assert str(raised.value) == f"endpoint 1 ({stub.origin}): is of chain 5, not of chain {CHAIN_ID}"
    assert set(stub.methods) == {"eth_chainId"}


async def test_the_right_chain_behind_a_wrong_one_is_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A wrong endpoint in the settings costs nothing while another one is right."""
    wrong, right = await make_stub(new_chain(chain_id=5)), await make_stub()
    async with nodes_of(wrong.endpoint, right.endpoint, clock=clock, seen=seen) as nodes:
        assert (await nodes.head()).tip == right.chain.tip
        assert (await nodes.head()).tip == right.chain.tip
        assert [status.is_usable for status in nodes.endpoints_status()] == [False, True]
        assert "chain 5" in str(nodes.endpoints_status()[0].last_error)
    assert wrong.methods == ["eth_chainId"]


async def test_wrong_chain_is_the_reason_when_nobody_else_answers(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """A dead endpoint beside one of another chain: the text tells both."""
    dead, wrong = await make_stub(), await make_stub(new_chain(chain_id=5))
    await dead.stop()
    async with nodes_of(dead.endpoint, wrong.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(WrongChain) as raised:
            await nodes.head()
    assert "endpoint 1" in str(raised.value)
    assert "endpoint 2" in str(raised.value)


async def test_a_node_that_became_another_chain_is_found_out(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Restarted with another chain, without one failed question between: its first answer is not used."""
    stub = await make_stub()
    right = stub.chain
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        await stub.stop()
        stub.chain = new_chain(chain_id=5)
        await stub.start()
        with pytest.raises(WrongChain):
            await nodes.head()
        stub.chain = right
        assert (await nodes.head()).tip == right.tip


# --- several endpoints -----------------------------------------------------------------------------------------------


async def test_fail_over_and_back(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The next endpoint takes over at once; the first has its place again after its pause and a proof of its chain."""
    first, second = await make_stub(), await make_stub()
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        assert (await nodes.head()).tip == first.chain.tip
        first.respond = fail
        assert (await nodes.head()).tip == second.chain.tip
        first.respond = None
        first.methods.clear()

        assert (await nodes.head()).tip == second.chain.tip
        assert first.methods == []  # it is left alone

        clock.advance(BACKOFF_SECONDS_MIN)
        assert (await nodes.head()).tip == second.chain.tip
        await until(lambda: nodes.endpoints_status()[0].is_usable)
        assert (await nodes.head()).tip == first.chain.tip


async def test_a_failing_endpoint_is_asked_less_and_less(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Pauses double up to a maximum, also for one that proves its chain each time and then fails."""
    first, second = await make_stub(), await make_stub()

    async def prove_then_fail(call: dict[str, Any]) -> web.StreamResponse:
        is_proof = call["method"] == "eth_chainId" or call["params"][0] == "0x0"
        return first.answer(call) if is_proof else await fail(call)

    first.respond = prove_then_fail
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        for failures, pause in enumerate([1, 2, 4, 8, 16, 30, 30], start=1):
            assert seen.faults == [(1, Fault.HTTP)] * failures
            clock.advance(pause - 0.5)
            await nodes.head()
            assert first.methods.count("eth_chainId") == failures
            clock.advance(0.5)
            await nodes.head()
            await until(lambda: nodes.endpoints_status()[0].is_usable)
            await nodes.head()


async def test_a_stalled_endpoint_delays_nobody_once_it_is_known(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Whether it has recovered is asked beside the questions: they are answered while that hangs."""
    first, second = await make_stub(), await make_stub()
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        first.respond = fail
        await nodes.head()
        first.respond = stall
        first.methods.clear()
        clock.advance(BACKOFF_SECONDS_MAX)
        for _ in range(5):
            assert (await nodes.head()).tip == second.chain.tip
        await until(lambda: first.methods == ["eth_chainId"])


async def test_what_one_node_lacks_the_next_is_asked_for(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A late node is not the end of a question, and keeps its place."""
    late, other = await make_stub(), await make_stub()
    other.chain.mine()
    async with nodes_of(late.endpoint, other.endpoint, clock=clock, seen=seen) as nodes:
        newest = other.chain.tip
        assert await nodes.header(newest.number) == newest
        assert (await nodes.head()).tip == late.chain.tip
    assert seen.faults == [(1, Fault.ABSENT)]


async def test_all_causes_are_told(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The error lists every endpoint with its own cause."""
    first, second = await make_stub(), await make_stub()
    first.respond, second.respond = fail, speak_html
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(RpcUnreachable) as raised:
            await nodes.head()
    assert str(raised.value) == (
        f"endpoint 1 ({first.origin}): HTTP status 500; endpoint 2 ({second.origin}): the answer is no JSON"
    )


async def test_questions_at_once_fail_as_one(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Twenty questions that fail together lengthen the pause once."""
    first, second = await make_stub(), await make_stub()
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        first.respond = fail
        await asyncio.gather(*(nodes.header(1) for _ in range(20)))
        first.respond = None
        clock.advance(BACKOFF_SECONDS_MIN)
        await nodes.head()
        await until(lambda: nodes.endpoints_status()[0].is_usable)


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["http://{host}/v3/{key}", "http://{host}/?apikey={key}", "http://user:{key}@{host}/"])
async def test_a_key_is_never_shown(form: str, make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Wherever a URL holds its key, and though the node repeats it, errors and status show the origin only."""
    stub = await make_stub()
    endpoint = Endpoint(form.format(host=f"127.0.0.1:{stub.port}", key=KEY))
    dead = Endpoint(form.format(host="127.0.0.1:1", key=KEY), f"ws://127.0.0.1:1/{KEY}")
    unknown = Endpoint(form.format(host="no-such-host.invalid", key=KEY))
    for respond in (refuse, fail, speak_html):
        stub.respond = respond
        async with nodes_of(endpoint, dead, unknown, clock=clock, seen=seen) as nodes:
            with pytest.raises(Unavailable) as raised:
                await nodes.head()
            await until(lambda: nodes.endpoints_status()[1].announcement_error is not None)
            assert_no_secret(raised.value, repr(raised.value), nodes.endpoints_status(), endpoint, dead, seen.changes)
            assert "http://no-such-host.invalid:80" in str(raised.value)


@pytest.mark.parametrize("url", ["", "geth:8545", "ftp://geth/" + KEY, "http://" + KEY + ":port", "http:///" + KEY])
async def test_a_url_that_is_none_is_an_invalid_setting(url: str, clock: FakeClock, seen: Seen) -> None:
    """The setting is named; the text, which may hold a key, is not repeated."""
    with pytest.raises(InvalidSetting) as raised:
        EthereumNodes([Endpoint(url)], chain_id=1, with_finalized=False, clock=clock, events=seen)
    assert str(raised.value).startswith("chain.rpc[0].url: ")
    assert_no_secret(raised.value, repr(raised.value))


@pytest.mark.parametrize(
    ("url", "again"),
    [
        (f"https://node/{KEY}", f"https://node/{KEY}"),
        (f"https://node/{KEY}", f"https://NODE:443/{KEY}"),
        (f"http://:{KEY}@node", f"http://:{KEY}@node/"),
    ],
)
async def test_a_url_that_is_there_twice_is_an_invalid_setting(
    url: str, again: str, clock: FakeClock, seen: Seen
) -> None:
    """One node would have two votes in a quorum. Of URLs that are secrets it shows only here, and none is repeated."""
    endpoints = [Endpoint(url), Endpoint("https://other"), Endpoint(again)]
    with pytest.raises(InvalidSetting) as raised:
        EthereumNodes(endpoints, chain_id=1, with_finalized=False, clock=clock, events=seen, quorum=2)
    assert str(raised.value) == "chain.rpc[2].url: the same as chain.rpc[0].url"
    assert_no_secret(raised.value, repr(raised.value))
