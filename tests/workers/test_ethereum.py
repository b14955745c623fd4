"""`EthereumNodes` against nodes that misbehave, over real connections on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import pytest
from aiohttp import web

from wallet_core.addresses import Address
from wallet_core.errors import InvalidSetting, NodeInconsistent, RpcUnreachable, Unavailable, WrongChain
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN
from wallet_workers.adapters.ethereum import EndpointStatus, EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault

CHAIN_ID = 1337
SHORT_SECONDS = 0.3
"""A request's time-out in tests of nodes that never answer; everybody else has a long one."""
KEY = "s3cr3t-k3y-0123456789abcdef"
OURS = Address(b"\x07" * 20)
Respond = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


class Stub:
    """A node of a fake chain on 127.0.0.1, which does as `respond` says where that is set."""

    def __init__(self, chain: FakeChain) -> None:
        self.chain = chain
        self.respond: Respond | None = None
        self.methods: list[str] = []
        self.encodings: set[str | None] = set()
        self.tags = {"latest": chain.tip.number}
        self.sockets: list[web.WebSocketResponse] = []
        self.subscribes = True
        self.drops_kept_connections = False
        self._used: set[int] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._serve)
        app.router.add_get("/{path:.*}", self._push)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            for socket in self.sockets:
                await socket.close()
            self.sockets.clear()
            await self._runner.cleanup()
            self._runner = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"{self.origin}/v3/{KEY}")

    @property
    def pushing_endpoint(self) -> Endpoint:
        return Endpoint(f"{self.origin}/v3/{KEY}", f"ws://127.0.0.1:{self.port}/ws/{KEY}")

    async def announce(self) -> None:
        for socket in self.sockets:
            await socket.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": {"result": {}}})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        call = await request.json()
        self.methods.append(call["method"])
        self.encodings.add(request.headers.get("Accept-Encoding"))
        if self.drops_kept_connections and request.transport is not None:
            if id(request.transport) in self._used:
                request.transport.abort()
            self._used.add(id(request.transport))
        if self.respond is not None:
            return await self.respond(call)
        return self.answer(call)

    def answer(self, call: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": self.result(call)})

    def result(self, call: dict[str, Any]) -> Any:
        if call["method"] == "eth_chainId":
            return hex(self.chain.chain_id)
        if call["method"] == "eth_getTransactionReceipt":
            return self._receipt(call["params"][0])
        tag, with_transactions = call["params"]
        return self._block(self.tags[tag] if tag in self.tags else int(tag, 16), with_transactions)

    def _block(self, number: int, with_transactions: bool) -> Any:
        if number >= len(self.chain.blocks):
            return None
        block = self.chain.blocks[number]
        header = block.header
        bodies = [{"hash": t.hash, "from": t.from_, "to": t.to, "value": t.value} for t in block.transactions]
        return {
            "number": hex(header.number),
            "hash": header.hash,
            "parentHash": header.parent_hash,
            "timestamp": hex(header.timestamp),
            "transactions": bodies if with_transactions else [body["hash"] for body in bodies],
        }

    def _receipt(self, transaction_hash: str) -> Any:
        found = self.chain.receipt(transaction_hash)
        if found is None:
            return None
        status = "0x1" if found.succeeded else "0x0"
        return {"transactionHash": transaction_hash, "blockHash": found.block_hash, "status": status}

    async def _push(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if self.subscribes:
                await socket.send_json({"jsonrpc": "2.0", "id": json.loads(message.data)["id"], "result": "0x1"})
                self.sockets.append(socket)
        return socket


class Seen:
    """What the adapter told its observer."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, Fault]] = []
        self.changes: list[EndpointStatus] = []
        self.requests: list[tuple[int, str]] = []

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((endpoint, method))

    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        self.faults.append((endpoint, fault))

    def endpoint_changed(self, status: EndpointStatus) -> None:
        self.changes.append(status)


Make = Callable[..., Awaitable[Stub]]


@pytest.fixture
async def make_stub() -> AsyncIterator[Make]:
    made: list[Stub] = []

    async def make(chain: FakeChain | None = None) -> Stub:
        stub = await Stub(chain or new_chain()).start()
        made.append(stub)
        return stub

    yield make
    for stub in made:
        await stub.stop()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def new_chain(chain_id: int = CHAIN_ID) -> FakeChain:
    chain = FakeChain(chain_id)
    chain.mine(chain.transfer(OURS, 5), chain.transfer(None, 0, fails=True))
    chain.mine_empty(2)
    return chain


@contextlib.asynccontextmanager
async def nodes_of(
    *endpoints: Endpoint, clock: FakeClock, seen: Seen, with_finalized: bool = False, timeout: float = 30.0
) -> AsyncIterator[EthereumNodes]:
    tasks_before = asyncio.all_tasks()
    async with EthereumNodes(
        endpoints,
        chain_id=CHAIN_ID,
        with_finalized=with_finalized,
        clock=clock,
        events=seen,
        request_timeout_seconds=timeout,
    ) as nodes:
        yield nodes
    left = {task for task in asyncio.all_tasks() - tasks_before if "wallet_workers" in repr(task.get_coro())}
    assert not left


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the conditions are counters and states, nobody's event
            await asyncio.sleep(0.001)


def assert_no_secret(*texts: object) -> None:
    assert not [text for text in map(str, texts) if KEY in text or KEY[:8] in text]


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_questions_are_answered_by_the_node(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Head, header, block and receipt are those of the node's chain; nothing asks for compression."""
    stub = await make_stub()
    block = stub.chain.blocks[1]
    paid, failed = block.transactions
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert await nodes.chain_id() == CHAIN_ID
        assert (await nodes.head()).tip == stub.chain.tip
        assert (await nodes.head()).finalized is None
        assert await nodes.header(0) == stub.chain.blocks[0].header
        assert await nodes.block(1) == block
        assert (await nodes.receipt(paid.hash, block.header.hash)).succeeded
        assert not (await nodes.receipt(failed.hash, block.header.hash)).succeeded
    assert stub.encodings == {"identity"}
    assert seen.faults == []
    assert (1, "eth_getBlockByNumber") in seen.requests


async def test_the_chain_id_is_asked_first_and_once(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """No answer is used before the endpoint has proved its chain, and a kept connection needs no second proof."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        for _ in range(3):
            await nodes.head()
    assert stub.methods == ["eth_chainId"] + ["eth_getBlockByNumber"] * 3


@pytest.mark.parametrize("what", ["header", "block", "receipt"])
async def test_null_is_inconsistent(what: str, make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Null is never "nothing there", and does not make the node unusable: it may only be late."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        ask: dict[str, Callable[[], Awaitable[object]]] = {
            "header": lambda: nodes.header(99),
            "block": lambda: nodes.block(99),
            "receipt": lambda: nodes.receipt("0x" + "12" * 32, stub.chain.tip.hash),
        }
        with pytest.raises(NodeInconsistent, match="does not have"):
            await ask[what]()
        assert nodes.endpoints_status()[0].is_usable
    assert seen.faults == [(1, Fault.ABSENT)]


async def test_a_receipt_in_another_block_is_inconsistent(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A receipt speaks of one block only."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(NodeInconsistent, match="it is in"):
            await nodes.receipt(stub.chain.blocks[1].transactions[0].hash, stub.chain.tip.hash)


WRONG_ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "another number": ("block", {"number": "0x2"}),
    "a number that is no quantity": ("block", {"number": "1"}),
    "a number of another type": ("block", {"number": 1}),
    "a short hash": ("block", {"hash": "0x12"}),
    "an upper-case hash": ("block", {"hash": "0x" + "AB" * 32}),
    "no parent hash": ("block", {"parentHash": None}),
    "no transactions": ("block", {"transactions": None}),
    "transactions by hash only": ("block", {"transactions": ["0x" + "ab" * 32]}),
    "a short recipient": (
        "block",
        {"transactions": [{"hash": "0x" + "ab" * 32, "from": "0x" + "ab" * 20, "to": "0x12", "value": "0x1"}]},
    ),
    "a receipt without status": ("receipt", {"status": None}),
    "a receipt with another status": ("receipt", {"status": "0x2"}),
    "another transaction's receipt": ("receipt", {"transactionHash": "0x" + "12" * 32}),
    "a receipt without block": ("receipt", {"blockHash": None}),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
async def test_an_answer_that_does_not_fit_is_inconsistent(
    case: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """A field that is missing, malformed or not what was asked for makes the whole answer unusable."""
    stub = await make_stub()
    what, change = WRONG_ANSWERS[case]
    block = stub.chain.blocks[1]

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] == "eth_chainId":
            return stub.answer(call)
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": stub.result(call) | change})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(NodeInconsistent):
            await (nodes.block(1) if what == "block" else nodes.receipt(block.transactions[0].hash, block.header.hash))
        assert not nodes.endpoints_status()[0].is_usable


@pytest.mark.parametrize("answer", [{}, {"id": 0, "result": "0x539"}, {"id": "1"}, {"error": {"code": "many"}}, []])
async def test_an_answer_to_no_question_is_inconsistent(
    answer: object, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Neither a missing result nor another request's answer is taken for null."""
    stub = await make_stub()
    stub.respond = lambda _call: reply(web.json_response(answer))
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(NodeInconsistent):
            await nodes.head()


async def reply(response: web.StreamResponse) -> web.StreamResponse:
    return response


# --- the finalized block -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, -32000, -32602, -39001])
async def test_no_finalized_block_yet(code: int | None, make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Null, or an error that says that the tag or block is not known: nothing is final, and the node is fine."""
    stub = await make_stub()

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][:1] != ["finalized"]:
            return stub.answer(call)
        outcome = {"result": None} if code is None else {"error": {"code": code, "message": "no such block"}}
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], **outcome})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes:
        head = await nodes.head()
        assert (head.tip, head.finalized) == (stub.chain.tip, None)
    assert seen.faults == []


async def test_a_finalized_block_comes_with_the_tip(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """It is asked for before the tip, and given with it."""
    stub = await make_stub()
    stub.tags["finalized"] = 2
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes:
        assert (await nodes.head()).finalized == stub.chain.blocks[2].header


async def test_a_finalized_block_above_the_tip_is_inconsistent(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Two nodes behind one URL that disagree are not believed."""
    stub = await make_stub()
    stub.tags |= {"finalized": 3, "latest": 2}
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes:
        with pytest.raises(NodeInconsistent, match="final"):
            await nodes.head()


async def test_an_overloaded_node_does_not_pass_for_one_without_finality(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Only errors about the block itself mean that there is none."""
    stub = await make_stub()

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][:1] != ["finalized"]:
            return stub.answer(call)
        return web.json_response({"id": call["id"], "error": {"code": -32005, "message": "limit exceeded"}})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes:
        with pytest.raises(RpcUnreachable, match="-32005"):
            await nodes.head()


# --- nodes that fail ---------------------------------------------------------------------------------------------------


async def stall(_call: dict[str, Any]) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def fail(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=500, text=f"for {KEY}")


async def rate_limit(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=429)


async def speak_html(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text=f"<html>{KEY}</html>", content_type="text/html")


async def speak_noise(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(body=b"\xff\xfe\x00" + KEY.encode())


async def refuse(call: dict[str, Any]) -> web.StreamResponse:
    return web.json_response(
        {"id": call["id"], "error": {"code": -32005, "message": f"key {KEY}\nhas no credits" + "x" * 900}}
    )


async def redirect(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/elsewhere"})


FAULTS: dict[str, tuple[Respond, Fault]] = {
    "stalls": (stall, Fault.TIMEOUT),
    "HTTP 500": (fail, Fault.HTTP),
    "HTTP 429": (rate_limit, Fault.HTTP),
    "HTTP 307": (redirect, Fault.HTTP),
    "HTML": (speak_html, Fault.NOT_JSON),
    "noise": (speak_noise, Fault.NOT_JSON),
    "JSON-RPC error": (refuse, Fault.RPC_ERROR),
}


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


async def test_a_kept_connection_that_died_is_no_failure(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Servers close idle connections; the question is asked again on a new one."""
    stub = await make_stub()
    stub.drops_kept_connections = True
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        for _ in range(3):
            assert (await nodes.head()).tip == stub.chain.tip
    assert seen.faults == []


# --- the right chain ---------------------------------------------------------------------------------------------------


async def test_a_node_of_another_chain_is_never_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """It is asked for its chain id and nothing else; the error says where, what was expected and what was found."""
    stub = await make_stub(new_chain(chain_id=5))
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        for ask in (nodes.chain_id, nodes.head, lambda: nodes.block(1)):
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


# --- several endpoints -------------------------------------------------------------------------------------------------


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
    """Pauses double up to a maximum, also for one that proves its chain id each time and then fails."""
    first, second = await make_stub(), await make_stub()

    async def prove_then_fail(call: dict[str, Any]) -> web.StreamResponse:
        return first.answer(call) if call["method"] == "eth_chainId" else await fail(call)

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


# --- secrets -----------------------------------------------------------------------------------------------------------


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


# --- new heads ---------------------------------------------------------------------------------------------------------


async def test_an_announcement_wakes_the_waiter(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A pushed head ends the wait long before its time-out."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        await until(lambda: nodes.endpoints_status()[0].announces_heads)
        await nodes.wait_for_head(3_600)  # the subscription itself: heads before it may have been missed
        waiting = asyncio.create_task(nodes.wait_for_head(3_600))
        await asyncio.sleep(0)
        assert not waiting.done()
        await stub.announce()
        await waiting


async def test_an_announcement_between_two_waits_is_not_lost(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A head that comes while the last one is worked on ends the next wait at once."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        await until(lambda: bool(stub.sockets))
        await nodes.wait_for_head(3_600)
        await stub.announce()
        await nodes.wait_for_head(3_600)


async def test_a_silent_websocket_stops_nothing(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A node that never answers the subscription: every wait ends by its time-out, and the silence is told."""
    stub = await make_stub()
    stub.subscribes = False
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen, timeout=SHORT_SECONDS) as nodes:
        await nodes.wait_for_head(0.01)
        assert (await nodes.head()).tip == stub.chain.tip
        await until(lambda: nodes.endpoints_status()[0].announcement_error == "no answer in time")
        assert not nodes.endpoints_status()[0].announces_heads
        assert nodes.endpoints_status()[0].is_usable


async def test_a_lost_websocket_is_opened_again(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """After a pause the subscription stands again, and announces."""
    stub = await make_stub()
    async with nodes_of(stub.pushing_endpoint, clock=clock, seen=seen) as nodes:
        await until(lambda: bool(stub.sockets))
        await nodes.wait_for_head(3_600)
        await stub.stop()
        await until(lambda: nodes.endpoints_status()[0].announcement_error is not None)
        await stub.start()
        clock.advance(BACKOFF_SECONDS_MIN)
        await nodes.wait_for_head(3_600)
        assert nodes.endpoints_status()[0].announces_heads


async def test_without_a_websocket_waiting_is_polling(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The wait ends by its time-out alone, and no task runs for it."""
    stub = await make_stub()
    tasks_before = asyncio.all_tasks()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert asyncio.all_tasks() == tasks_before
        await nodes.wait_for_head(0.01)
        assert not nodes.endpoints_status()[0].announces_heads
