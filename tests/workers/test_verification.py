"""`chain.verify`: what a node says is believed as far as hashes go, and no further."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from stub_node import Make, Seen, nodes_of
from wallet_core.bloom import admitted
from wallet_core.errors import NodeInconsistent
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.json_rpc import Answer, Answered, EndpointFault, Fault, RpcAnswer
from wallet_workers.adapters.verification import Verification

T = TypeVar("T")
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "execution_apis_vectors.json").read_text())
Given = dict[str, Any]


class Node:
    """Answers from one recorded block, which a test may forge."""

    def __init__(self, name: str = "with-logs", *, has_block_receipts: bool = True) -> None:
        given = copy.deepcopy(VECTORS["blocks"][name])
        self.block: Given = given["block"]
        self.receipts: list[Given] = given["receipts"]
        self.has_block_receipts = has_block_receipts
        self.asked: list[str] = []
        self.hash: str = self.block["hash"]
        self.number = int(self.block["number"], 16)

    async def __call__(self, method: str, params: Sequence[Any], answer: Answer[T], /) -> Answered[T]:
        self.asked.append(method)
        decoded = answer.decode(json.dumps({"id": 1, "result": self._result(method, params)})).result
        return Answered(None if isinstance(decoded, msgspec.UnsetType) else decoded)

    def _result(self, method: str, params: Sequence[Any]) -> Any:
        match method:
            case "eth_getBlockByNumber" | "eth_getBlockByHash":
                hashes = [each["hash"] for each in self.block["transactions"]]
                return self.block if params[1] else {**self.block, "transactions": hashes}
            case "eth_getBlockReceipts" if self.has_block_receipts:
                return self.receipts
            case "eth_getTransactionReceipt":
                return next((each for each in self.receipts if each["transactionHash"] == params[0]), None)
            case "eth_getLogs":
                return []
        raise EndpointFault(Fault.RPC_ERROR, "no such method", -32601)


@pytest.fixture
def node() -> Node:
    return Node()


def refused() -> Any:
    return pytest.raises(EndpointFault, match=r"eth_getBlockByNumber: ")


async def read_block(node: Node) -> None:
    await execution_api.block(Verification().over(node), node.number)


async def read_receipt(node: Node) -> None:
    await execution_api.receipt(Verification().over(node), node.block["transactions"][1]["hash"], node.hash)


async def test_an_honest_block_is_handed_on_as_it_is(node: Node) -> None:
    """Checked or not, the same is read."""
    checked = await execution_api.block(Verification().over(node), node.number)
    assert checked == await execution_api.block(node, node.number)
    assert await execution_api.header(Verification().over(node), node.number) == checked.header


Forge = Callable[[Given], None]
FORGED_BLOCKS: dict[str, Forge] = {
    "a transaction left out": lambda block: block["transactions"].pop(),
    "a transaction twice": lambda block: block["transactions"].append(block["transactions"][0]),
    "another order": lambda block: block["transactions"].reverse(),
    "another recipient": lambda block: block["transactions"][0].update(to="0x" + "11" * 20),
    "another amount": lambda block: block["transactions"][0].update(value="0xde0b6b3a7640000"),
    "another sender": lambda block: block["transactions"][0].update({"from": "0x" + "11" * 20}),
    "another transaction hash": lambda block: block["transactions"][0].update(hash="0x" + "11" * 32),
    "another block hash": lambda block: block.update(hash="0x" + "11" * 32),
    "another parent": lambda block: block.update(parentHash="0x" + "11" * 32),
    "another time": lambda block: block.update(timestamp="0x1"),
    "an empty bloom": lambda block: block.update(logsBloom="0x" + "00" * 256),
    "another receipts' root": lambda block: block.update(receiptsRoot="0x" + "11" * 32),
    "a withdrawal": lambda block: block["withdrawals"].append(
        {"index": "0x0", "validatorIndex": "0x0", "address": "0x" + "11" * 20, "amount": "0x1"}
    ),
    "a missing field": lambda block: block.pop("stateRoot"),
}


@pytest.mark.parametrize("lie", FORGED_BLOCKS)
async def test_a_forged_block_is_refused(lie: str, node: Node) -> None:
    """Whatever is changed of a block under its hash, or of the hash."""
    FORGED_BLOCKS[lie](node.block)
    with refused() as raised:
        await read_block(node)
    assert raised.value.fault is Fault.FORGED


FORGED_RECEIPTS: dict[str, Callable[[list[Given]], object]] = {
    "another status": lambda receipts: receipts[1].update(status="0x0"),
    "no logs": lambda receipts: receipts[1].update(logs=[]),
    "one log less": lambda receipts: receipts[1]["logs"].pop(),
    "another log": lambda receipts: receipts[1]["logs"][0].update(data="0x11"),
    "another contract": lambda receipts: receipts[1]["logs"][0].update(address="0x" + "11" * 20),
    "another index": lambda receipts: receipts[1]["logs"][0].update(logIndex="0x7"),
    "another's log": lambda receipts: receipts[1]["logs"][0].update(transactionHash="0x" + "11" * 32),
    "one receipt less": lambda receipts: receipts.pop(),
    "another's receipt": lambda receipts: receipts[0].update(transactionHash=receipts[3]["transactionHash"]),
    "another block's": lambda receipts: receipts[0].update(blockHash="0x" + "11" * 32),
}


@pytest.mark.parametrize("lie", FORGED_RECEIPTS)
@pytest.mark.parametrize("has_block_receipts", [True, False])
async def test_a_forged_receipt_is_refused(lie: str, has_block_receipts: bool) -> None:
    """Outcome, logs and place, whichever transaction of the block is lied about."""
    node = Node(has_block_receipts=has_block_receipts)
    FORGED_RECEIPTS[lie](node.receipts)
    with pytest.raises(EndpointFault) as raised:
        await read_receipt(node)
    assert raised.value.fault in {Fault.FORGED, Fault.ABSENT if not has_block_receipts else Fault.FORGED}


@pytest.mark.parametrize("has_block_receipts", [True, False])
async def test_an_honest_receipt_is_handed_on_as_it_is(has_block_receipts: bool) -> None:
    """With and without `eth_getBlockReceipts`; once checked, a block's receipts are not asked for again."""
    node = Node(has_block_receipts=has_block_receipts)
    verification = Verification()
    for transaction in node.block["transactions"]:
        checked = await execution_api.receipt(verification.over(node), transaction["hash"], node.hash)
        assert checked == await execution_api.receipt(node, transaction["hash"], node.hash)
    asked_by_checks = [each for each in node.asked if each != "eth_getTransactionReceipt"]
    assert asked_by_checks == ["eth_getBlockByHash", "eth_getBlockReceipts"]


async def test_a_transaction_in_a_block_that_does_not_hold_it_is_refused(node: Node) -> None:
    """A true receipt of one block says nothing of a transaction that is not in it."""
    stranger = "0x" + "11" * 32
    node.receipts.append({**node.receipts[0], "transactionHash": stranger})
    with pytest.raises(EndpointFault) as raised:
        await execution_api.receipt(Verification().over(node), stranger, node.hash)
    assert raised.value.fault is Fault.FORGED


async def test_logs_come_from_the_receipts_and_not_from_the_nodes_word(node: Node) -> None:
    """A node that says `[]` of a block with transfers hides nothing: it is not asked."""
    written = [log for receipt in node.receipts for log in receipt["logs"]]
    contract, topic = written[0]["address"], written[0]["topics"][0]
    header = await execution_api.header(Verification().over(node), node.number)
    assert admitted(header, [contract], topic) == (contract,)
    expected = [each["logIndex"] for each in written if each["address"] == contract and each["topics"][:1] == [topic]]
    found = await execution_api.logs(Verification().over(node), header, [contract], topic)
    assert [hex(log.index) for log in found] == expected
    assert expected
    assert "eth_getLogs" not in node.asked
    assert await execution_api.logs(Verification().over(node), header, ["0x" + "11" * 20], topic) == ()


async def test_logs_of_a_range_are_handed_on_as_they_came(node: Node) -> None:
    """An audit asks for them, and no hash stands for a range: they are no error, and no reason to ask for receipts."""
    answer: Answer[tuple[msgspec.Raw, ...]] = msgspec.json.Decoder(RpcAnswer[tuple[msgspec.Raw, ...]])
    asked = {"fromBlock": "0x1", "toBlock": "0x2", "topics": []}
    assert (await Verification().over(node)("eth_getLogs", (asked,), answer)).result == ()
    assert node.asked == ["eth_getLogs"]


async def test_a_forging_endpoint_is_passed_over(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The fault is `forged`; where nobody is honest, the answer is NodeInconsistent and nothing is believed."""
    stub = await make_stub()  # its hashes stand for nothing
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, verify=True) as nodes:
        with pytest.raises(NodeInconsistent, match="endpoint 1"):
            await nodes.block(1)
        with pytest.raises(NodeInconsistent):
            await nodes.head()
    assert {fault for _, fault in seen.faults} == {Fault.FORGED}
