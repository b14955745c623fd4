"""What a node answers is checked before it is believed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from stub_node import Make, Seen, nodes_of, reply
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.json_rpc import Fault

# --- answers ---------------------------------------------------------------------------------------------------------


async def test_questions_are_answered_by_the_node(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Head, header, block and receipt are those of the node's chain; nothing asks for compression."""
    stub = await make_stub()
    block = stub.chain.blocks[1]
    paid, failed = block.transactions
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
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


# --- the finalized block ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, ""),
        (-32000, "finalized block not found"),
        (-32602, "no such block"),
        (-39001, "no such block"),
    ],
)
async def test_no_finalized_block_yet(
    code: int | None, message: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Null, or an error that says that the tag or block is not known: nothing is final, and the node is fine."""
    stub = await make_stub()

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][:1] != ["finalized"]:
            return stub.answer(call)
        outcome = {"result": None} if code is None else {"error": {"code": code, "message": message}}
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


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32005, "limit exceeded"),
        (-32000, "header not found"),
        (-32000, "too many requests while looking for the finalized block"),
        (-32000, "missing trie node"),
    ],
)
async def test_an_overloaded_node_does_not_pass_for_one_without_finality(
    code: int, message: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Only errors about the block itself mean that there is none."""
    stub = await make_stub()

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["params"][:1] != ["finalized"]:
            return stub.answer(call)
        return web.json_response({"id": call["id"], "error": {"code": code, "message": message}})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes:
        with pytest.raises(RpcUnreachable, match=f"{code}"):
            await nodes.head()
