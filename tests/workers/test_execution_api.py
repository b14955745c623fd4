"""What a node answers is checked before it is believed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from stub_node import CHAIN_ID, OURS, Make, Seen, nodes_of, reply
from wallet_core.addresses import Address, lower_hex
from wallet_core.bloom import admitted
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_core.testing.fake_chain import FakeChain, transfer_log
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.tokens import TRANSFER_TOPIC
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


async def test_the_chain_is_proved_first_and_once(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """No answer is used before the endpoint has proved its chain, and a kept connection needs no second proof."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        for _ in range(3):
            await nodes.head()
    proof = ["eth_chainId", "eth_getBlockByNumber"]  # the chain id and the genesis block
    assert stub.methods == [*proof, *["eth_getBlockByNumber"] * 3]


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


# --- logs, withdrawals, created contracts ---------------------------------------------------------------------------

TOKEN = Address(b"\xc0" * 20)
CONTRACTS = (lower_hex(TOKEN),)


def chain_with_logs() -> FakeChain:
    """Block 1 has a token's transfer, a withdrawal and a created contract; block 2 has nothing."""
    chain = FakeChain(CHAIN_ID)
    logs = [(TOKEN, ("0x" + "0a" * 32,), "0x"), transfer_log(TOKEN, OURS, 7)]
    chain.mine(
        chain.transfer(TOKEN, 0, logs=logs), chain.transfer(None, 1), withdrawals=[chain.withdrawal(OURS, 18_250_123)]
    )
    chain.mine_empty(2)
    return chain


async def test_logs_receipts_and_withdrawals_are_read_whole(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """All logs of a receipt, those that were asked for of a block, and what the beacon chain paid."""
    stub = await make_stub(chain_with_logs())
    block = stub.chain.blocks[1]
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert await nodes.block(1) == block
        assert list(await nodes.logs(block.header, CONTRACTS, TRANSFER_TOPIC)) == [stub.chain.logs(block)[1]]
        for sent in block.transactions:
            assert await nodes.receipt(sent.hash, block.header.hash) == stub.chain.receipt(sent.hash)
    assert seen.faults == []
    assert stub.methods.count("eth_getLogs") == 1


async def test_an_empty_answer_counts_only_from_a_node_that_has_the_block(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Some nodes say `[]` of a block that they do not know: another endpoint is asked then."""
    late, current = await make_stub(FakeChain(CHAIN_ID)), await make_stub(chain_with_logs())
    late.chain = FakeChain(CHAIN_ID)  # the same genesis block, and another branch
    late.chain.mine()
    header = current.chain.blocks[1].header
    async with nodes_of(late.endpoint, current.endpoint, clock=clock, seen=seen) as nodes:
        assert len(await nodes.logs(header, CONTRACTS, TRANSFER_TOPIC)) == 1
        assert late.methods[-2:] == ["eth_getLogs", "eth_getBlockByHash"]
        await current.stop()
        with pytest.raises(NodeInconsistent, match="does not have block"):
            await nodes.logs(header, CONTRACTS, TRANSFER_TOPIC)


async def test_no_logs_although_the_bloom_admits_them_is_normal(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The bits may be those of others: here the contract's other event and a stranger's transfer."""
    chain = FakeChain(CHAIN_ID)
    stranger = Address(b"\x0c" * 20)
    logs = [(TOKEN, ("0x" + "0a" * 32,), "0x"), transfer_log(stranger, OURS, 7)]
    header = chain.mine(chain.transfer(TOKEN, 0, logs=logs)).header
    assert admitted(header, CONTRACTS, TRANSFER_TOPIC) == CONTRACTS
    stub = await make_stub(chain)
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert list(await nodes.logs(header, CONTRACTS, TRANSFER_TOPIC)) == []
    assert seen.faults == []


OTHER = "0x" + "ff" * 32
WRONG_LOGS: dict[str, tuple[dict[str, Any], Fault]] = {
    "of another block": ({"blockHash": OTHER}, Fault.OTHER_BLOCK),
    "of another contract": ({"address": "0x" + "0c" * 20}, Fault.INCONSISTENT),
    "of another topic": ({"topics": [OTHER]}, Fault.INCONSISTENT),
    "without topics": ({"topics": []}, Fault.INCONSISTENT),
    "with five topics": ({"topics": [TRANSFER_TOPIC] * 5}, Fault.INCONSISTENT),
    "taken back": ({"removed": True}, Fault.INCONSISTENT),
    "of half a byte": ({"data": "0x123"}, Fault.INCONSISTENT),
    "with a short topic": ({"topics": [TRANSFER_TOPIC, "0x12"]}, Fault.INCONSISTENT),
    "excluded by the bloom": ({"topics": [TRANSFER_TOPIC, OTHER]}, Fault.BLOOM),
    "without a place": ({"logIndex": None}, Fault.INCONSISTENT),
}


OF_ANY_LOG = (
    "of another block",
    "with five topics",
    "taken back",
    "of half a byte",
    "with a short topic",
    "without a place",
)
"""A receipt may hold any contract's logs on any topic."""


@pytest.mark.parametrize(
    ("method", "case"),
    [("eth_getLogs", case) for case in WRONG_LOGS] + [("eth_getTransactionReceipt", case) for case in OF_ANY_LOG],
)
async def test_a_log_that_does_not_fit_makes_the_answer_unusable(
    method: str, case: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Whether it was asked for by block or came with a receipt."""
    change, fault = WRONG_LOGS[case]
    stub = await make_stub(chain_with_logs())
    block = stub.chain.blocks[1]

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        result = stub.result(call)
        if call["method"] == method:
            logs = result if method == "eth_getLogs" else result["logs"]
            logs[:] = [each | change for each in logs]
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": result})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        logs = nodes.logs(block.header, CONTRACTS, TRANSFER_TOPIC)
        receipt = nodes.receipt(block.transactions[0].hash, block.header.hash)
        asked, other = (logs, receipt) if method == "eth_getLogs" else (receipt, logs)
        other.close()
        with pytest.raises(NodeInconsistent):
            await asked
    assert seen.faults == [(1, fault)]


async def test_logs_out_of_order_are_inconsistent(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A place among them would not be a place in the transaction."""
    stub = await make_stub(chain_with_logs())
    block = stub.chain.blocks[1]

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        result = stub.result(call)
        if call["method"] == "eth_getTransactionReceipt":
            result["logs"].reverse()
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": result})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(NodeInconsistent, match="not in order"):
            await nodes.receipt(block.transactions[0].hash, block.header.hash)


@pytest.mark.parametrize(
    "change",
    [
        {"withdrawals": None},
        {"withdrawals": [{"index": "0x1"}]},
        {"withdrawals": [{"index": "0x1", "validatorIndex": "0x1", "address": "0x12", "amount": "0x1"}]},
        {"withdrawals": [{"index": "0x1", "validatorIndex": "0x1", "address": lower_hex(OURS), "amount": "1"}]},
        {"logsBloom": "0x00"},
        {"logsBloom": None},
    ],
)
async def test_withdrawals_and_blooms_that_cannot_be_read_are_inconsistent(
    change: dict[str, Any], make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """A block that has them and leaves them out is never one without."""
    stub = await make_stub(chain_with_logs())

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        result = stub.result(call)
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "0x1":
            result |= change
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": result})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        with pytest.raises(NodeInconsistent):
            await nodes.block(1)


async def test_a_block_from_before_withdrawals_has_none(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Neither field is there, and that is no fault."""
    stub = await make_stub(chain_with_logs())

    async def respond(call: dict[str, Any]) -> web.StreamResponse:
        result = stub.result(call)
        if call["method"] == "eth_getBlockByNumber":
            del result["withdrawals"], result["withdrawalsRoot"]
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": result})

    stub.respond = respond
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        assert (await nodes.block(1)).withdrawals == ()
