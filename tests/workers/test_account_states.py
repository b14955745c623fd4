"""Balances and tokens' logs, as nodes tell of them or decline to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from stub_node import CHAIN_ID, OURS, Make, Respond, Seen, Stub
from wallet_core.addresses import Address, lower_hex
from wallet_core.errors import NodeDeclined, NodeInconsistent, RpcUnreachable
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.tokens import TRANSFER_TOPIC
from wallet_workers.adapters.account_states import BALANCE_OF, AccountStates, Sent
from wallet_workers.adapters.json_rpc import Endpoint

TOKEN, OTHERS = Address(b"\xc0" * 20), Address(b"\x0e" * 20)
METHODS = ("eth_getBalance", "eth_call", "eth_getLogs")
QUESTIONS: list[Callable[[AccountStates], Awaitable[object]]] = [
    lambda node: node.balance(OURS, 2),
    lambda node: node.token_balance(lower_hex(TOKEN), OURS, 2),
    lambda node: node.tokens_sent([OURS], 1, 2),
]


def word(address: Address) -> str:
    return "0x" + address.hex().zfill(64)


def log(*topics: str, contract: str = lower_hex(TOKEN)) -> dict[str, Any]:
    return {"address": contract, "topics": list(topics), "data": "0x"}


def answering(stub: Stub, result: object = None, **error: object) -> tuple[Respond, list[Any]]:
    """Answers these questions so, and all others as the stub's chain has it; with the parameters that were asked."""
    asked: list[Any] = []

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] not in METHODS:
            return stub.answer(call)
        asked.append(call["params"])
        said = {"error": error} if error else {"result": result}
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], **said})

    return respond, asked


def states(*endpoints: Endpoint, clock: FakeClock, seen: Seen) -> AccountStates:
    return AccountStates(endpoints, chain_id=CHAIN_ID, with_finalized=False, clock=clock, events=seen)


async def test_balances_are_those_of_the_block(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Of the coin and of a token, asked by the block's number."""
    stub = await make_stub()
    async with states(stub.endpoint, clock=clock, seen=seen) as node:
        stub.respond, asked = answering(stub, "0x1f")
        assert await node.balance(OURS, 2) == 31
        assert asked == [[lower_hex(OURS), "0x2"]]
        stub.respond, asked = answering(stub, f"0x{31:064x}")
        assert await node.token_balance(lower_hex(TOKEN), OURS, 2) == 31
        assert asked == [[{"to": lower_hex(TOKEN), "data": BALANCE_OF + word(OURS)[2:]}, "0x2"]]


@pytest.mark.parametrize(
    "said",
    [
        {"result": "0x"},
        {"result": "0x01"},
        {"code": 3, "message": "execution reverted"},
        {"code": -32000, "message": "VM Exception: revert"},
    ],
)
async def test_a_contract_that_gives_no_balance_holds_nothing(
    said: dict[str, Any], make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """It is not there yet, or is no token."""
    stub = await make_stub()
    stub.respond, _ = answering(stub, **said)
    async with states(stub.endpoint, clock=clock, seen=seen) as node:
        assert await node.token_balance(lower_hex(TOKEN), OURS, 2) == 0


async def test_tokens_that_were_sent(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Of any contract; an ERC-721 is no such token."""
    stub = await make_stub()
    ours = log(TRANSFER_TOPIC, word(OTHERS), word(OURS))
    stub.respond, asked = answering(stub, [ours, log(TRANSFER_TOPIC, word(OTHERS), word(OURS), word(OTHERS))])
    async with states(stub.endpoint, clock=clock, seen=seen) as node:
        assert await node.tokens_sent([OURS], 1, 2) == [Sent(lower_hex(TOKEN), OURS)]
    assert asked == [[{"fromBlock": "0x1", "toBlock": "0x2", "topics": [TRANSFER_TOPIC, None, [word(OURS)]]}]]


@pytest.mark.parametrize(
    "strange",
    [
        log(TRANSFER_TOPIC, word(OTHERS), word(OTHERS)),
        log(word(OURS), word(OTHERS), word(OURS)),
        log(TRANSFER_TOPIC, word(OURS)),
        log(TRANSFER_TOPIC, word(OTHERS), word(OURS), contract="0xAA"),
    ],
)
async def test_logs_that_were_not_asked_for_are_not_believed(
    strange: dict[str, Any], make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Such a node may leave out others."""
    stub = await make_stub()
    stub.respond, _ = answering(stub, [strange])
    async with states(stub.endpoint, clock=clock, seen=seen) as node:
        with pytest.raises(NodeInconsistent):
            await node.tokens_sent([OURS], 1, 2)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_what_a_node_declines_another_is_asked(
    question: Callable[[AccountStates], Awaitable[object]], make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """It is as healthy as before; if nobody answers, what they said is told."""
    young, archive = await make_stub(), await make_stub()
    young.respond, _ = answering(young, code=-32000, message="missing trie node")
    archive.respond, asked = answering(archive, code=-32005, message="range too large")
    async with states(young.endpoint, archive.endpoint, clock=clock, seen=seen) as node:
        with pytest.raises(NodeDeclined, match=r"missing trie node.*range too large"):
            await question(node)
        assert [each.is_usable for each in node.endpoints_status()] == [True, True]
        await archive.stop()
        with pytest.raises(RpcUnreachable):
            await question(node)
    assert len(asked) == 1


@pytest.mark.parametrize("question", QUESTIONS)
async def test_null_is_no_balance(
    question: Callable[[AccountStates], Awaitable[object]], make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Nor is it "no tokens"."""
    stub = await make_stub()
    stub.respond, _ = answering(stub, None)
    async with states(stub.endpoint, clock=clock, seen=seen) as node:
        with pytest.raises(NodeInconsistent, match="does not have"):
            await question(node)


async def test_a_range_that_takes_too_long_is_declined(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Half of it may be given; a single block that takes too long is the endpoint's fault."""
    stub = await make_stub()

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] in METHODS:
            await asyncio.Event().wait()
        return stub.answer(call)

    stub.respond = respond
    async with AccountStates(
        [stub.endpoint],
        chain_id=CHAIN_ID,
        with_finalized=False,
        clock=clock,
        events=seen,
        request_timeout_seconds=0.2,
    ) as node:
        with pytest.raises(NodeDeclined):
            await node.tokens_sent([OURS], 1, 2)
        assert [each.is_usable for each in node.endpoints_status()] == [True]
        with pytest.raises(RpcUnreachable):
            await node.tokens_sent([OURS], 2, 2)
        with pytest.raises(RpcUnreachable):
            await node.balance(OURS, 2)
