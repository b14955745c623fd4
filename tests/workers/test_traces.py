"""Both ways of tracing become the same frames, and what cannot be believed becomes a fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from stub_node import Make, Seen, nodes_of, until
from wallet_core.blocks import Block, Frame, FrameKind, Header, Transaction
from wallet_core.errors import RpcUnreachable
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.traces import movements
from wallet_workers.adapters.json_rpc import ANSWER_BYTES_MAX, Answer, Answered, EndpointFault, Fault
from wallet_workers.adapters.traces import (
    LOOK_AGAIN_SECONDS,
    LOST_SECONDS_MIN,
    STATE_KEPT_BLOCKS_MIN,
    TIMEOUT_SECONDS_MAX,
    TIMEOUTS_MIN,
    TRACES_UNKNOWN_SECONDS_MAX,
    Tracing,
)

T = TypeVar("T")
DEBUG, TRACE = "debug_traceBlockByHash", "trace_block"
DEBUG_ONE, TRACE_ONE = "debug_traceTransaction", "trace_transaction"
BLOCK_HASH, OTHER = "0x" + "b1" * 32, "0x" + "ff" * 32
SENDER, CONTRACT, PAID, NEW = ("0x" + pair * 20 for pair in ("5e", "c0", "a1", "ee"))
FIRST = Transaction(hash="0x" + "01" * 32, from_=SENDER, to=CONTRACT, value="0x9")
SECOND = Transaction(hash="0x" + "02" * 32, from_=SENDER, to=None, value="0x0")
BLOCK = Block(Header(17, BLOCK_HASH, "0x" + "b0" * 32, 0), (FIRST, SECOND))


def call(kind: str, sender: str, to: str | None, value: str | None, *calls: Any, error: str | None = None) -> Any:
    found = {"type": kind, "from": sender, "to": to, "value": value, "calls": list(calls), "error": error}
    return {name: content for name, content in found.items() if content not in (None, [])}


DEBUG_ANSWER: list[Any] = [
    {
        "txHash": FIRST.hash,
        "result": call(
            "CALL", SENDER, CONTRACT, "0x9",
            call(
                "DELEGATECALL", CONTRACT, PAID, "0x9",
                call("CALL", CONTRACT, PAID, "0x1"),
                call("CALL", CONTRACT, PAID, "0x2", error="execution reverted"),
            ),
            call("STATICCALL", CONTRACT, PAID, None),
            call("CREATE2", CONTRACT, NEW, "0x3"),
            call("CREATE", CONTRACT, None, "0x4", error="out of gas"),
            call("SELFDESTRUCT", CONTRACT, PAID, "0x5"),
        ),
    },
    {"txHash": SECOND.hash, "result": call("CREATE", SENDER, NEW, "0x0")},
]  # fmt: skip


def trace(kind: str, address: Sequence[int], action: dict[str, Any], of: Transaction = FIRST, **more: Any) -> Any:
    return {
        "type": kind,
        "action": action,
        "traceAddress": list(address),
        "blockHash": BLOCK_HASH,
        "blockNumber": 17,
        "transactionHash": of.hash,
        "subtraces": 0,
        "result": None,
        **more,
    }


def called(kind: str, to: str, value: str, sender: str = CONTRACT) -> dict[str, Any]:
    return {"callType": kind, "from": sender, "to": to, "value": value, "gas": "0x1", "input": "0x"}


TRACE_ANSWER: list[Any] = [
    trace("call", [], called("call", CONTRACT, "0x9", SENDER)),
    trace("call", [0], called("delegatecall", PAID, "0x9")),
    trace("call", [0, 0], called("call", PAID, "0x1")),
    trace("call", [0, 1], called("call", PAID, "0x2"), error="Reverted"),
    trace("call", [1], called("staticcall", PAID, "0x0")),
    trace("create", [2], {"from": CONTRACT, "value": "0x3", "init": "0x"}, result={"address": NEW, "code": "0x"}),
    trace("create", [3], {"from": CONTRACT, "value": "0x4", "init": "0x"}, error="Out of gas"),
    trace("suicide", [4], {"address": CONTRACT, "refundAddress": PAID, "balance": "0x5"}),
    trace("create", [], {"from": SENDER, "value": "0x0", "init": "0x"}, SECOND, result={"address": NEW}),
    trace("reward", [], {"author": SENDER, "value": "0x1"}, transactionHash=None),
]


class Node:
    """Answers, or fails, by method; goes through the same decoders as the wire."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []
        self.tip = 17 + STATE_KEPT_BLOCKS_MIN
        self.canonical = BLOCK_HASH

    async def __call__(self, method: str, params: Sequence[object], answer: Answer[T], /) -> Answered[T]:
        self.asked.append((method, list(params)))
        found = self.answers.get(method, EndpointFault(Fault.RPC_ERROR, "error -32601: Method not found", -32601))
        if method == "eth_getBlockByNumber":
            at, block_hash = (self.tip, OTHER) if params[0] == "latest" else (17, self.canonical)
            found = {"number": hex(at), "hash": block_hash, "parentHash": OTHER, "timestamp": "0x1"}
            found["logsBloom"] = "0x" + "00" * 256
        if isinstance(found, dict) and method in (DEBUG_ONE, TRACE_ONE):
            found = found[str(params[0])]
        if isinstance(found, Exception):
            raise found
        decoded = answer.decode(json.dumps({"id": 1, "result": found}).encode())
        assert not isinstance(decoded.result, msgspec.UnsetType)
        return Answered(decoded.result)

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.asked if not method.startswith("eth_")]


async def test_both_ways_lead_to_the_same_movements() -> None:
    """The same places, whoever was asked; reverted, created and borrowed ones included."""
    by_debug = await Tracing().frames(Node(**{DEBUG: DEBUG_ANSWER}), BLOCK, 0)
    by_trace = await Tracing().frames(Node(**{TRACE: TRACE_ANSWER}), BLOCK, 0)
    moved = movements(FIRST, by_debug[FIRST.hash])
    assert moved == movements(FIRST, by_trace[FIRST.hash])
    assert [(each.recipient, each.value_wei) for each in moved] == [(PAID, 1), (NEW, 3), (PAID, 5)]
    assert movements(SECOND, by_debug[SECOND.hash]) == movements(SECOND, by_trace[SECOND.hash]) == ()


async def test_frames_are_those_of_the_wire() -> None:
    """Kind, depth, sender, recipient, value and failure, in pre-order."""
    frames = await Tracing().frames(Node(**{DEBUG: DEBUG_ANSWER}), BLOCK, 0)
    assert frames[FIRST.hash][:4] == [
        Frame(FrameKind.CALL, 0, SENDER, CONTRACT, 9, failed=False),
        Frame(FrameKind.DELEGATECALL, 1, CONTRACT, PAID, 9, failed=False),
        Frame(FrameKind.CALL, 2, CONTRACT, PAID, 1, failed=False),
        Frame(FrameKind.CALL, 2, CONTRACT, PAID, 2, failed=True),
    ]
    flat = await Tracing().frames(Node(**{TRACE: TRACE_ANSWER}), BLOCK, 0)
    assert flat == frames


async def test_the_block_is_named_by_hash_where_that_is_possible() -> None:
    """`trace_block` takes a number only."""
    node = Node()
    with pytest.raises(EndpointFault):
        await Tracing().frames(node, BLOCK, 0)
    assert node.asked == [(DEBUG, [BLOCK_HASH, {"tracer": "callTracer"}]), (TRACE, ["0x11"])]


# --- which way ----------------------------------------------------------------------------------------------------


async def test_the_way_that_worked_is_asked_first_from_then_on() -> None:
    """What a node has is found out once."""
    node, tracing = Node(**{TRACE: TRACE_ANSWER}), Tracing()
    assert tracing.found == "unknown"
    for now in (0.0, 1.0):
        await tracing.frames(node, BLOCK, now)
    assert node.methods == [DEBUG, TRACE, TRACE]
    assert tracing.found == TRACE


async def test_a_node_without_traces_is_looked_at_again_now_and_then() -> None:
    """Not at every block; and one that was upgraded meanwhile is used."""
    node, tracing = Node(), Tracing()
    for now in (0.0, 1.0, LOOK_AGAIN_SECONDS - 1):
        with pytest.raises(EndpointFault) as raised:
            await tracing.frames(node, BLOCK, now)
        assert raised.value.fault is Fault.UNTRACEABLE
    assert (node.methods, tracing.found) == ([DEBUG, TRACE], "none")
    node.answers[DEBUG] = DEBUG_ANSWER
    assert await tracing.frames(node, BLOCK, LOOK_AGAIN_SECONDS)
    assert tracing.found == DEBUG


async def test_a_node_that_lost_its_way_is_asked_the_other() -> None:
    """Another node may have taken over the URL."""
    node, tracing = Node(**{DEBUG: DEBUG_ANSWER}), Tracing()
    await tracing.frames(node, BLOCK, 0)
    node.answers = {TRACE: TRACE_ANSWER}
    await tracing.frames(node, BLOCK, 1)
    assert (node.methods, tracing.found) == ([DEBUG, DEBUG, TRACE], TRACE)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-32601, "the method debug_traceBlockByHash does not exist/is not available"),
        (-32004, "no"),
        (-32600, "debug_traceBlockByHash is not available on the Free tier - upgrade to Pay As You Go"),
        (-32000, "Debug and Trace API are not available on your current plan"),
        (-32600, "method not supported"),
    ],
)
async def test_refusals_of_the_method_mean_no_traces(code: int, text: str) -> None:
    """By code, or in the words of providers."""
    refusal = EndpointFault(Fault.RPC_ERROR, f"error {code}: {text}", code)
    tracing = Tracing()
    with pytest.raises(EndpointFault) as raised:
        await tracing.frames(Node(**{DEBUG: refusal, TRACE: refusal}), BLOCK, 0)
    assert (raised.value.fault, tracing.found) == (Fault.UNTRACEABLE, "none")


@pytest.mark.parametrize(
    "text",
    [
        "required historical state unavailable (reexec=128)",
        "missing trie node 1c2b (path ) state 0x1c2b is not available",
        "state not available for block 17",
        "historical state 1c2b is not available",
        "No state available for block 17 (0xb1b1)",
        "World state unavailable",
    ],
)
async def test_a_block_out_of_reach_is_untraceable_and_the_node_keeps_its_way(text: str) -> None:
    """A node that is no archive traces young blocks all the same."""
    node = Node(**{DEBUG: EndpointFault(Fault.RPC_ERROR, f"error -32000: {text}", -32000)})
    tracing = Tracing()
    with pytest.raises(EndpointFault, match="any more") as raised:
        await tracing.frames(node, BLOCK, 0)
    assert (raised.value.fault, tracing.found, node.methods) == (Fault.UNTRACEABLE, DEBUG, [DEBUG])
    node.answers[DEBUG] = DEBUG_ANSWER
    assert await tracing.frames(node, BLOCK, 1)


@pytest.mark.parametrize(
    "fault",
    [
        EndpointFault(Fault.RPC_ERROR, "error -32005: rate limit exceeded", -32005),
        EndpointFault(Fault.RPC_ERROR, "error -32005: API rate limit: burst not allowed for your plan", -32005),
        EndpointFault(Fault.RPC_ERROR, "error -32603: internal error: api backend not available", -32603),
        EndpointFault(Fault.RPC_ERROR, "error -32000: method handler crashed: block not found", -32000),
        EndpointFault(
            Fault.RPC_ERROR, "error -32000: method debug_traceBlockByHash is temporarily not available", -32000
        ),
        EndpointFault(Fault.RPC_ERROR, "error -32000: state at head is temporarily unavailable, retry", -32000),
        EndpointFault(Fault.HTTP, "HTTP status 503"),
        EndpointFault(Fault.ABSENT, "error -32001: Resource not found", -32001),
    ],
    ids=str,
)
async def test_any_other_failure_is_no_verdict_on_traces(fault: EndpointFault) -> None:
    """The node may have them and be busy: who takes that for "none" loses deposits."""
    tracing = Tracing()
    with pytest.raises(EndpointFault) as raised:
        await tracing.frames(Node(**{DEBUG: fault, TRACE: TRACE_ANSWER}), BLOCK, 0)
    assert raised.value is fault
    assert tracing.found == "unknown"


async def test_a_young_block_is_never_out_of_reach() -> None:
    """Every node has that state: who says otherwise is behind, or broken, and is waited for."""
    refusal = EndpointFault(Fault.RPC_ERROR, "error -32000: historical state 1c2b is not available", -32000)
    node, tracing = Node(**{DEBUG: refusal}), Tracing()
    node.tip -= 1
    with pytest.raises(EndpointFault, match="historical state") as raised:
        await tracing.frames(node, BLOCK, 0)
    assert raised.value.fault is Fault.RPC_ERROR


async def test_a_way_that_worked_is_not_forgotten_at_one_word() -> None:
    """A balancer's other node may lack it; only what lasts, over several tries, is believed."""
    node, tracing = Node(**{DEBUG: DEBUG_ANSWER}), Tracing()
    for begin in (0.0, 1000.0):
        await tracing.frames(node, BLOCK, begin)
        node.answers = {}
        for now in (begin, begin + 1, begin + LOST_SECONDS_MIN - 1):
            with pytest.raises(EndpointFault, match="it had traces before") as raised:
                await tracing.frames(node, BLOCK, now)
            assert (raised.value.fault, tracing.found) == (Fault.RPC_ERROR, DEBUG)
        node.answers = {DEBUG: DEBUG_ANSWER}
    await tracing.frames(node, BLOCK, 2000.0)
    node.answers = {}
    for now in (2000.0, 2001.0, 2000.0 + LOST_SECONDS_MIN):
        with pytest.raises(EndpointFault) as raised:
            await tracing.frames(node, BLOCK, now)
    assert (raised.value.fault, tracing.found) == (Fault.UNTRACEABLE, "none")


# --- one by one ---------------------------------------------------------------------------------------------------


TOO_LARGE = EndpointFault(Fault.TOO_LARGE, "an answer of more bytes")
OUT_OF_TIME = EndpointFault(Fault.RPC_ERROR, "error -32000: execution timeout", -32000)
DEBUG_ONES: dict[str, Any] = {each["txHash"]: each["result"] for each in DEBUG_ANSWER}
TRACE_ONES: dict[str, Any] = {
    each.hash: [entry for entry in TRACE_ANSWER if entry["transactionHash"] == each.hash] for each in (FIRST, SECOND)
}


@pytest.mark.parametrize("fault", [TOO_LARGE, OUT_OF_TIME, EndpointFault(Fault.TIMEOUT, "no answer in time")], ids=str)
@pytest.mark.parametrize(("method", "one", "answers"), [(DEBUG, DEBUG_ONE, DEBUG_ONES), (TRACE, TRACE_ONE, TRACE_ONES)])
async def test_a_block_that_cannot_be_traced_whole_is_traced_by_transaction(
    fault: EndpointFault, method: str, one: str, answers: dict[str, Any]
) -> None:
    """Nothing is left out, and the frames are the same."""
    frames = await Tracing().frames(Node(**{method: fault, one: answers}), BLOCK, 0)
    assert frames == await Tracing().frames(Node(**{DEBUG: DEBUG_ANSWER}), BLOCK, 0)


async def test_only_a_transaction_that_is_too_large_by_itself_is_left_out() -> None:
    """The others of its block are seen: nobody can hide them."""
    known: dict[str, Sequence[Frame]] = {}
    node = Node(**{DEBUG: TOO_LARGE, DEBUG_ONE: {**DEBUG_ONES, SECOND.hash: TOO_LARGE}})
    with pytest.raises(EndpointFault, match=SECOND.hash) as raised:
        await Tracing().frames(node, BLOCK, 0, known)
    assert raised.value.fault is Fault.TRACE_TOO_LARGE
    assert FIRST.hash not in str(raised.value)
    assert known.keys() == {FIRST.hash}
    await Tracing().frames(Node(**{DEBUG: TOO_LARGE, DEBUG_ONE: DEBUG_ONES}), BLOCK, 0, known)
    assert known.keys() == {FIRST.hash, SECOND.hash}  # another endpoint adds what it can


async def test_a_transaction_that_the_node_gave_up_in_the_block_is_asked_for_again() -> None:
    """Geth says "execution timeout" of single transactions in an answer that holds the others."""
    node = Node(
        **{DEBUG: [DEBUG_ANSWER[0], {"txHash": SECOND.hash, "error": "execution timeout"}], DEBUG_ONE: DEBUG_ONES}
    )
    assert (await Tracing().frames(node, BLOCK, 0)).keys() == {FIRST.hash, SECOND.hash}
    assert [params[0] for method, params in node.asked if method == DEBUG_ONE] == [SECOND.hash]


async def test_a_transaction_that_runs_out_of_time_again_and_again_is_left_out() -> None:
    """Not at once, for the node may be busy; but not for ever either, for anybody can send one."""
    tracing = Tracing()
    node = Node(**{DEBUG: OUT_OF_TIME, DEBUG_ONE: {**DEBUG_ONES, SECOND.hash: OUT_OF_TIME}})
    for now in range(TIMEOUTS_MIN - 1):
        with pytest.raises(EndpointFault, match=f"{SECOND.hash}.*execution timeout") as raised:
            await tracing.frames(node, BLOCK, now)
        assert raised.value.fault is Fault.RPC_ERROR
    with pytest.raises(EndpointFault, match=SECOND.hash) as raised:
        await tracing.frames(node, BLOCK, TIMEOUTS_MIN)
    assert raised.value.fault is Fault.TRACE_TOO_LARGE


async def test_a_node_that_traces_nothing_in_time_is_waited_for_longer() -> None:
    """It is overloaded rather than every transaction heavy."""
    tracing = Tracing()
    node = Node(**{DEBUG: OUT_OF_TIME, DEBUG_ONE: dict.fromkeys(DEBUG_ONES, OUT_OF_TIME)})
    for now in (0.0, 1.0, 2.0, TIMEOUT_SECONDS_MAX - 1):
        with pytest.raises(EndpointFault, match="execution timeout") as raised:
            await tracing.frames(node, BLOCK, now)
        assert raised.value.fault is Fault.RPC_ERROR
    with pytest.raises(EndpointFault, match=r"cannot trace some") as raised:
        await tracing.frames(node, BLOCK, TIMEOUT_SECONDS_MAX)
    assert raised.value.fault is Fault.TRACE_TOO_LARGE


async def test_traces_of_single_transactions_of_another_block_are_not_taken() -> None:
    """After a fork the same transaction may do something else, and geth does not say where it traced it."""
    node = Node(**{DEBUG: TOO_LARGE, DEBUG_ONE: DEBUG_ONES})
    node.canonical = OTHER
    with pytest.raises(EndpointFault) as raised:
        await Tracing().frames(node, BLOCK, 0)
    assert raised.value.fault is Fault.OTHER_BLOCK
    elsewhere = {each: broken(entries, 0, "blockHash", value=OTHER) for each, entries in TRACE_ONES.items()}
    with pytest.raises(EndpointFault) as raised:
        await Tracing().frames(Node(**{TRACE: TOO_LARGE, TRACE_ONE: elsewhere}), BLOCK, 0)
    assert raised.value.fault is Fault.OTHER_BLOCK


async def test_a_failure_that_is_not_the_transactions_own_is_waited_for() -> None:
    """A rate limit in the middle of many questions, for example."""
    limit = EndpointFault(Fault.RPC_ERROR, "error -32005: rate limit exceeded", -32005)
    node = Node(**{DEBUG: TOO_LARGE, DEBUG_ONE: {**DEBUG_ONES, SECOND.hash: limit}})
    with pytest.raises(EndpointFault) as raised:
        await Tracing().frames(node, BLOCK, 0)
    assert raised.value is limit


# --- what cannot be believed --------------------------------------------------------------------------------------


def broken(answer: list[Any], *path: Any, value: Any = None, drop: bool = False) -> list[Any]:
    changed = copy.deepcopy(answer)
    part: Any = changed
    for step in path[:-1]:
        part = part[step]
    if drop:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return changed


UNBELIEVABLE: dict[str, tuple[str, list[Any], Fault]] = {
    "debug: nothing": (DEBUG, [], Fault.INCONSISTENT),
    "debug: one transaction only": (DEBUG, DEBUG_ANSWER[:1], Fault.INCONSISTENT),
    "debug: another order": (DEBUG, DEBUG_ANSWER[::-1], Fault.INCONSISTENT),
    "debug: no trace of one, and no reason": (
        DEBUG, [DEBUG_ANSWER[0], {"txHash": SECOND.hash}], Fault.INCONSISTENT,
    ),
    "debug: an unknown kind": (DEBUG, broken(DEBUG_ANSWER, 0, "result", "type", value="EXTCALL"), Fault.INCONSISTENT),
    "debug: a short address": (DEBUG, broken(DEBUG_ANSWER, 0, "result", "to", value="0x12"), Fault.INCONSISTENT),
    "debug: a value that is none": (DEBUG, broken(DEBUG_ANSWER, 0, "result", "value", value="9"), Fault.INCONSISTENT),
    "trace: nothing": (TRACE, [], Fault.INCONSISTENT),
    "trace: the reward only": (TRACE, TRACE_ANSWER[-1:], Fault.INCONSISTENT),
    "trace: another block": (TRACE, broken(TRACE_ANSWER, 0, "blockHash", value=OTHER), Fault.OTHER_BLOCK),
    "trace: another block's end": (TRACE, broken(TRACE_ANSWER, -2, "blockHash", value=OTHER), Fault.OTHER_BLOCK),
    "trace: a transaction left out": (TRACE, TRACE_ANSWER[:8], Fault.INCONSISTENT),
    "trace: a transaction too many": (
        TRACE, broken(TRACE_ANSWER, -2, "transactionHash", value=OTHER), Fault.INCONSISTENT,
    ),
    "trace: no top frame": (TRACE, TRACE_ANSWER[1:], Fault.INCONSISTENT),
    "trace: two top frames": (TRACE, [*TRACE_ANSWER, TRACE_ANSWER[-2]], Fault.INCONSISTENT),
    "trace: out of order": (TRACE, [TRACE_ANSWER[0], *TRACE_ANSWER[7:0:-1], TRACE_ANSWER[8]], Fault.INCONSISTENT),
    "trace: a level left out": (TRACE, broken(TRACE_ANSWER, 1, drop=True), Fault.INCONSISTENT),
    "trace: an unknown type": (TRACE, broken(TRACE_ANSWER, 1, "type", value="magic"), Fault.INCONSISTENT),
    "trace: no sender": (TRACE, broken(TRACE_ANSWER, 7, "action", "address", drop=True), Fault.INCONSISTENT),
}  # fmt: skip


@pytest.mark.parametrize("case", UNBELIEVABLE)
async def test_traces_of_something_else_or_of_a_part_are_faults(case: str) -> None:
    """Never "nothing moved"."""
    method, answer, fault = UNBELIEVABLE[case]
    with pytest.raises(EndpointFault) as raised:
        await Tracing().frames(Node(**{method: answer}), BLOCK, 0)
    assert raised.value.fault is fault


# --- over several endpoints ---------------------------------------------------------------------------------------


def serving(stub: Any, **answers: Any) -> None:
    """Make a stub trace."""

    async def respond(request: dict[str, Any]) -> web.StreamResponse:
        if "race" not in request["method"]:
            answer: web.StreamResponse = stub.answer(request)
            return answer
        found = answers.get(request["method"], {"error": {"code": -32601, "message": "Method not found"}})
        return web.json_response({"jsonrpc": "2.0", "id": request["id"], **found})

    stub.respond = respond


def traced_block(chain: FakeChain) -> tuple[Block, Any]:
    block = chain.blocks[1]
    kinds = ["CALL" if each.to else "CREATE" for each in block.transactions]
    result = [
        {"txHash": each.hash, "result": call(kind, each.from_, each.to, each.value)}
        for kind, each in zip(kinds, block.transactions, strict=True)
    ]
    return block, {"result": result}


async def test_the_first_endpoint_with_traces_is_asked(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """One without them is as usable as before, and not asked again at each block."""
    without, having = await make_stub(), await make_stub()
    block, answer = traced_block(having.chain)
    serving(without)
    serving(having, **{DEBUG: answer})
    async with nodes_of(without.endpoint, having.endpoint, clock=clock, seen=seen) as nodes:
        for _ in range(2):
            frames = await nodes.frames(block)
            assert frames is not None
            assert frames.keys() == {each.hash for each in block.transactions}
        assert [each.traces for each in nodes.endpoints_status()] == ["none", DEBUG]
        assert [each.is_usable for each in nodes.endpoints_status()] == [True, True]
    assert [method for method in without.methods if "race" in method] == [DEBUG, TRACE]
    assert seen.faults == []


async def test_without_any_traces_there_are_none(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A fact, and no error."""
    stub = await make_stub()
    serving(stub)
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert await nodes.frames(stub.chain.blocks[1]) is None


async def test_while_an_endpoint_that_may_trace_is_away_nothing_is_concluded(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """It showed that it has what the other lacks; to go on without it would lose deposits."""
    without, away = await make_stub(), await make_stub()
    block, answer = traced_block(away.chain)
    serving(without)
    serving(away, **{DEBUG: answer})
    async with nodes_of(without.endpoint, away.endpoint, clock=clock, seen=seen) as nodes:
        assert await nodes.frames(block)
        await away.stop()
        for _ in range(2):
            with pytest.raises(RpcUnreachable, match=r"^traces of block 1: .*endpoint 2 .*no connection"):
                await nodes.frames(block)
            clock.advance(10 * TRACES_UNKNOWN_SECONDS_MAX)


async def test_an_endpoint_of_which_nothing_is_known_is_waited_for_a_while(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """One that is dead for ever must not stop the wallet; when it is back its traces are used."""
    without, away = await make_stub(), await make_stub()
    block, answer = traced_block(away.chain)
    serving(without)
    serving(away, **{DEBUG: answer})
    await away.stop()
    async with nodes_of(away.endpoint, without.endpoint, clock=clock, seen=seen) as nodes:
        clock.advance(10 * TRACES_UNKNOWN_SECONDS_MAX)  # the time begins with the first question
        for _ in range(2):
            with pytest.raises(RpcUnreachable, match=r"^traces of block 1: .*endpoint 1 .*no connection"):
                await nodes.frames(block)
            clock.advance(TRACES_UNKNOWN_SECONDS_MAX / 2)
        assert await nodes.frames(block) is None
        await away.start()
        clock.advance(60)
        assert await nodes.frames(block) is None  # and is proved beside
        await until(lambda: nodes.endpoints_status()[0].is_usable)
        assert await nodes.frames(block)


async def test_where_nobody_answers_nothing_is_concluded_however_long_it_lasts(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Only somebody who says that it has no traces shows that there may be none to wait for."""
    away = await make_stub()
    await away.stop()
    async with nodes_of(away.endpoint, clock=clock, seen=seen) as nodes:
        for _ in range(3):
            with pytest.raises(RpcUnreachable):
                await nodes.frames(away.chain.blocks[1])
            clock.advance(TRACES_UNKNOWN_SECONDS_MAX)


async def test_traces_too_large_for_any_answer_do_not_stop_the_wallet(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Anybody can make them: every way and every endpoint are tried, then that transaction counts as untraced."""
    large, without = await make_stub(), await make_stub()
    block, answer = traced_block(large.chain)
    heavy, small = block.transactions
    too_much = bytes(ANSWER_BYTES_MAX + 1)
    is_large = True

    async def respond(request: dict[str, Any]) -> web.StreamResponse:
        if "race" not in request["method"]:
            return large.answer(request)
        if is_large and request["params"][0] != small.hash:
            return web.Response(body=too_much, content_type="application/json")
        if request["method"] == DEBUG_ONE:
            return web.json_response({"id": request["id"], "result": answer["result"][1]["result"]})
        return web.json_response({"id": request["id"], **answer})

    large.respond = respond
    serving(without)
    async with nodes_of(large.endpoint, without.endpoint, clock=clock, seen=seen) as nodes:
        with capture_logs() as logs:
            frames = await nodes.frames(block)
        assert frames is not None
        assert frames[heavy.hash] is None
        assert frames[small.hash]
        assert [(each["event"], each["log_level"], each["block"], each["transactions"]) for each in logs] == [
            ("transactions_untraced", "warning", block.header.number, [heavy.hash])
        ]
        assert f"more than {ANSWER_BYTES_MAX} bytes" in logs[0]["message"]
        assert [method for method in large.methods if "race" in method][:2] == [DEBUG, TRACE]
        assert [method for method in without.methods if "race" in method] == [DEBUG, TRACE]
        assert all(each.is_usable for each in nodes.endpoints_status())  # it answers everything else
        is_large = False
        assert await nodes.frames(block)  # the next block is traced again
    assert seen.faults == [(1, Fault.TRACE_TOO_LARGE)]


async def test_an_endpoint_with_smaller_traces_is_asked_next(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Nothing is left out where anybody can say it in fewer bytes, be it the same node by the other way."""
    large, other = await make_stub(), await make_stub()
    block, answer = traced_block(large.chain)

    async def respond(request: dict[str, Any]) -> web.StreamResponse:
        if request["method"] in (DEBUG, TRACE):
            return web.Response(body=bytes(ANSWER_BYTES_MAX + 1), content_type="application/json")
        return large.answer(request)

    large.respond = respond
    serving(other, **{DEBUG: answer})
    async with nodes_of(large.endpoint, other.endpoint, clock=clock, seen=seen) as nodes:
        frames = await nodes.frames(block)
        assert frames is not None
        assert frames.keys() == {each.hash for each in block.transactions}
    node = Node(**{DEBUG: EndpointFault(Fault.TOO_LARGE, "an answer of more bytes"), TRACE: TRACE_ANSWER})
    assert await Tracing().frames(node, BLOCK, 0)


async def test_while_traces_are_waited_for_the_block_is_named(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Who is on call must see that one block's traces are what the wallet waits for."""
    stub = await make_stub()
    serving(stub, **{DEBUG: {"error": {"code": -32000, "message": "too busy"}}})
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(RpcUnreachable, match=r"^traces of block 1: endpoint 1 .*too busy"):
            await nodes.frames(stub.chain.blocks[1])


async def test_calls_as_deep_as_the_evm_allows_can_be_read(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Anybody can put such a transaction into a block, and the wallet must not stop at it; deeper is no answer."""
    stub = await make_stub()
    block, _ = traced_block(stub.chain)
    first, second = block.transactions
    for depth, is_read in ((1_024, True), (4_000, False)):
        nested = _around("")
        for _ in range(depth - 1):
            nested = _around(nested)
        top = json.dumps(call("CALL", first.from_, first.to, first.value))[:-1] + f',"calls":[{nested}]}}'
        other = json.dumps(call("CREATE", second.from_, None, second.value, error="reverted"))
        result = f'[{{"result":{top}}},{{"result":{other}}}]'

        async def respond(request: dict[str, Any], result: str = result) -> web.StreamResponse:
            if request["method"] != DEBUG:
                return stub.answer(request)
            return web.Response(text=f'{{"id":{request["id"]},"result":{result}}}', content_type="application/json")

        stub.respond = respond
        async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
            if is_read:
                frames = await nodes.frames(block)
                assert frames is not None
                assert (of_first := frames[first.hash])
                assert of_first[-1].depth == depth
            else:
                with pytest.raises(Exception, match="too deeply"):
                    await nodes.frames(block)


def _around(nested: str) -> str:
    return f'{{"type":"STATICCALL","from":"{CONTRACT}","to":"{CONTRACT}","calls":[{nested}]}}'
