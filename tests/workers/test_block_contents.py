"""Finding every kind of transfer in a range of blocks, with no more questions than needed."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stub_node import OURS, Make, Seen, Stub, nodes_of
from wallet_core.addresses import Address, checksum_address, lower_hex
from wallet_core.blocks import Block, Frame, FrameKind, Header, Log
from wallet_core.chain import BlockRef, WindowBlock
from wallet_core.deposits import Deposit
from wallet_core.errors import NodeInconsistent
from wallet_core.ports import Node
from wallet_core.resource import parse_resource
from wallet_core.settings import Role, SyncSettings, environment, settings_from_environment
from wallet_core.testing.fake_chain import FakeChain, FakeNode, transfer_log
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.transfers import Scope
from wallet_workers.adapters.json_rpc import Fault
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

ALICE, TOKEN, OTHER_TOKEN = (Address(bytes([each]) * 20) for each in (0xA1, 0xC0, 0xC1))
ETH: Mapping[str, object] = {"type": "native", "symbol": "ETH"}
RECORDED: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "withdrawal_blocks.json").read_text())
"""Four linked blocks of mainnet's shape after Cancun, made by hand in the wire's form, with every root and hash right:
no development chain makes withdrawals. Two of the first block go to `OURS` with one amount, as a validator's partial
withdrawals do; one in the third is of nothing. The fourth has one, and beside it three signed transactions with their
receipts: ETH to `OURS`, a transfer of the token 0xc0c0…c0 to it, and one to a stranger."""


def token(contract: Address, symbol: str) -> Mapping[str, object]:
    return {"type": "erc20", "symbol": symbol, "contract": checksum_address(contract), "decimals": 6}


@dataclass
class Feed:
    """What is published, handed out once. Notes what the node had been asked when it was read."""

    node: Counting
    left: list[Address] = field(default_factory=list)
    asked_before: list[str] = field(default_factory=list)

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        self.asked_before = list(self.node.asked)
        new, self.left = self.left, []
        if new:
            yield new


class Counting(FakeNode):
    """A fake node that notes what it is asked."""

    def __init__(self, chain: FakeChain) -> None:
        super().__init__(chain, FakeClock())
        self.asked: list[str] = []

    async def block(self, number: int) -> Block:
        self.asked.append(f"block {number}")
        return await super().block(number)

    async def logs(self, block: Header, contracts: Any, topic: str) -> Sequence[Log]:
        self.asked.append(f"logs {block.number} of {len(contracts)}")
        return await super().logs(block, contracts, topic)

    async def frames(self, block: Block) -> Mapping[str, Sequence[Frame] | None] | None:
        self.asked.append(f"frames {block.header.number}")
        return await super().frames(block)


class World:
    def __init__(self, *assets: Mapping[str, object]) -> None:
        document = {
            "apiVersion": "wallet-manager.dev/v1alpha1",
            "kind": "WalletManager",
            "metadata": {"name": "test"},
            "spec": {
                "chain": {"id": 1337, "rpc": [{"url": "http://127.0.0.1:1"}]},
                "kafka": {"bootstrapServers": "127.0.0.1:1"},
                "redis": {"url": "redis://127.0.0.1:1/0"},
                "accounts": {"fingerprint": "00" * 20, "xpubFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
                "assets": assets,
            },
        }
        self.settings = settings_from_environment(SyncSettings, environment(parse_resource(document), Role.SYNC))
        self.first_blocks = {asset.key: 0 for asset in self.settings.assets}
        self.chain = FakeChain()
        self.node = Counting(self.chain)
        self.feed = Feed(self.node, [ALICE, OURS])
        self.status = WorkerStatus(Role.SYNC, "default.test", "", FakeClock())
        self.metrics = Metrics(self.status)
        self.scanner = self.over(self.node)

    def over(self, node: Node) -> Scanner:
        return Scanner(self.settings, node=node, feed=self.feed, status=self.status, metrics=self.metrics)

    async def scan(self, parent: Header | None = None) -> tuple[WindowBlock, ...]:
        """Everything above a block; the whole chain without one."""
        at = parent or self.chain.blocks[0].header
        return await self.scanner.scan(
            BlockRef(at.number, at.hash), at.number + 1, self.chain.tip.number, Scope(self.first_blocks)
        )

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def paid(blocks: Sequence[WindowBlock]) -> list[list[tuple[str, int]]]:
    return [[(each.asset.symbol, each.amount) for each in block.deposits] for block in blocks]


def inner(value_wei: int) -> Frame:
    return Frame(FrameKind.CALL, 1, lower_hex(TOKEN), lower_hex(ALICE), value_wei, failed=False)


async def test_every_kind_of_transfer_is_found() -> None:
    """In the order of the block, whatever brought them."""
    world = World(ETH, token(TOKEN, "TOK"))
    chain = world.chain
    chain.mine(
        chain.transfer(ALICE, 1, calls=[inner(2)], logs=[transfer_log(TOKEN, ALICE, 3)]),
        withdrawals=[chain.withdrawal(ALICE, 4)],
    )
    assert paid(await world.scan()) == [[("ETH", 1), ("ETH", 2), ("TOK", 3), ("ETH", 4 * 10**9)]]
    assert world.status.as_dict()["traces_available"] is True
    assert world.sample("wallet_traces_available") == 1


async def test_addresses_are_read_after_all_that_a_block_holds() -> None:
    """The promise of completeness: fetch, then feed, then match."""
    world = World(ETH, token(TOKEN, "TOK"))
    world.chain.mine(world.chain.transfer(ALICE, 1, logs=[transfer_log(TOKEN, ALICE, 3)]))
    await world.scan()
    assert set(world.feed.asked_before) == {"block 1", "logs 1 of 1", "frames 1"}


async def test_no_logs_are_asked_for_where_the_bloom_excludes_them() -> None:
    """And only of the tokens that it admits."""
    world = World(token(TOKEN, "TOK"), token(OTHER_TOKEN, "OTK"))
    chain = world.chain
    chain.mine(chain.transfer(ALICE, 1))
    chain.mine(chain.transfer(TOKEN, 0, logs=[transfer_log(Address(b"\x0c" * 20), ALICE, 1)]))
    chain.mine(chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, ALICE, 7)]))
    assert paid(await world.scan()) == [[], [], [("TOK", 7)]]
    assert [each for each in world.node.asked if "logs" in each] == ["logs 3 of 1"]


async def test_no_traces_are_asked_for_where_nothing_can_have_moved() -> None:
    """Neither of a block without transactions, nor where the chain's own coin is not reported."""
    world = World(ETH)
    world.chain.mine(withdrawals=[world.chain.withdrawal(ALICE, 1)])
    assert paid(await world.scan()) == [[("ETH", 10**9)]]
    tokens_only = World(token(TOKEN, "TOK"))
    tokens_only.chain.mine(tokens_only.chain.transfer(ALICE, 1, calls=[inner(2)]))
    assert paid(await tokens_only.scan()) == [[]]
    assert not [each for each in world.node.asked + tokens_only.node.asked if "frames" in each]


async def test_without_traces_the_block_is_scanned_and_the_lack_is_told() -> None:
    """In `/status`, by a gauge, and by a count of the blocks."""
    world = World(ETH)
    chain = world.chain
    world.node.has_traces = False
    chain.mine(chain.transfer(ALICE, 1, calls=[inner(2)]))
    assert paid(await world.scan()) == [[("ETH", 1)]]
    assert world.status.as_dict()["traces_available"] is False
    assert world.sample("wallet_traces_available") == 0
    world.node.has_traces = True
    world.node.untraceable = {2}
    chain.mine(chain.transfer(ALICE, 3))
    chain.mine(chain.transfer(ALICE, 4, calls=[inner(5)]))
    assert paid(await world.scan(chain.blocks[1].header)) == [[("ETH", 3)], [("ETH", 4), ("ETH", 5)]]
    assert world.sample("wallet_untraced_blocks_total") == 2


async def test_a_transaction_that_nobody_can_trace_hides_no_other() -> None:
    """It is counted by itself; what contracts pay in the others of its block is reported."""
    world = World(ETH)
    chain = world.chain
    heavy = chain.transfer(ALICE, 1, calls=[inner(2)])
    world.node.untraceable_transactions = {heavy.hash}
    chain.mine(heavy, chain.transfer(ALICE, 3, calls=[inner(4)]))
    assert paid(await world.scan()) == [[("ETH", 1), ("ETH", 3), ("ETH", 4)]]
    assert world.sample("wallet_untraced_transactions_total") == 1
    assert world.sample("wallet_untraced_blocks_total") == 0
    assert world.status.as_dict()["traces_available"] is True


async def test_an_asset_is_reported_from_its_first_block_on() -> None:
    """One that was added while the wallet ran; the others are not touched by it."""
    world = World(ETH, token(TOKEN, "TOK"))
    chain = world.chain
    for amount in (1, 2):
        chain.mine(chain.transfer(ALICE, amount, logs=[transfer_log(TOKEN, ALICE, amount)]))
    world.first_blocks[lower_hex(TOKEN)] = 2
    assert paid(await world.scan()) == [[("ETH", 1)], [("ETH", 2), ("TOK", 2)]]
    assert [each for each in world.node.asked if "logs" in each] == ["logs 2 of 1"]


async def test_malformed_logs_are_counted() -> None:
    """By contract: somebody listed a token whose transfers nobody can read."""
    world = World(token(TOKEN, "TOK"))
    contract, topics, data = transfer_log(TOKEN, ALICE, 7)
    nft = (contract, (*topics, "0x" + "00" * 32), "0x")
    world.chain.mine(world.chain.transfer(TOKEN, 0, logs=[nft, (contract, topics, "0x12"), (contract, topics, data)]))
    assert paid(await world.scan()) == [[("TOK", 7)]]
    assert world.sample("wallet_malformed_logs_total", contract=lower_hex(TOKEN)) == 2


@pytest.mark.parametrize("fault", ["stray logs", "lost traces", "lost receipt", "another block's receipt"])
async def test_a_contradiction_ends_the_scan(fault: str) -> None:
    """Nothing is found, nothing is lost: the blocks are scanned again."""
    world = World(ETH, token(TOKEN, "TOK"))
    sent = world.chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, ALICE, 7)])
    block = world.chain.mine(sent)
    match fault:
        case "stray logs":
            world.node.stray_logs = list(world.chain.logs(block))
        case "lost traces":
            world.node.lost_traces = {sent.hash}
        case "lost receipt":
            world.node.null_receipts = {sent.hash}
        case _:
            world.node.foreign_receipts = {sent.hash: block.header.parent_hash}
    with pytest.raises(NodeInconsistent):
        await world.scan()


# --- recorded blocks ----------------------------------------------------------------------------------------------


def result(call: dict[str, Any], blocks: Sequence[dict[str, Any]], receipts: Sequence[dict[str, Any]]) -> Any:
    """What a node of these blocks says; None where it has none of it."""
    match call["method"], call["params"][0]:
        case (("eth_getBlockByNumber" | "eth_getBlockByHash"), which):
            return next((each for each in blocks if which in (each["number"], each["hash"])), None)
        case "eth_getTransactionReceipt", which:
            return next((each for each in receipts if each["transactionHash"] == which), None)
        case "eth_getBlockReceipts", which:
            return [each for each in receipts if each["blockHash"] == which]
        case "eth_getLogs", which:
            return [log for each in receipts for log in each["logs"] if log["blockHash"] == which["blockHash"]]
        case "debug_traceBlockByHash", which:
            return [
                {"txHash": each["hash"], "result": {"type": "CALL", **{name: each[name] for name in TOP_FRAME}}}
                for block in blocks
                if block["hash"] == which
                for each in block["transactions"]
            ]
    raise AssertionError(call)


TOP_FRAME = ("from", "to", "value")


@dataclass
class Recorded:
    """A node that has the recorded blocks; a test may forge them."""

    stub: Stub
    blocks: list[dict[str, Any]] = field(default_factory=lambda: copy.deepcopy(RECORDED["blocks"]))
    receipts: list[dict[str, Any]] = field(default_factory=lambda: copy.deepcopy(RECORDED["receipts"]))
    asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.stub.respond = self.respond

    async def respond(self, call: dict[str, Any]) -> web.StreamResponse:
        self.asked.add(call["method"])
        if call["method"] == "eth_chainId" or call["params"][0] == "0x0":
            return self.stub.answer(call)
        found = result(call, self.blocks, self.receipts)
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": found})

    async def scan(self, world: World, nodes: Node, first: int, last: int) -> tuple[WindowBlock, ...]:
        """The recorded blocks of these places."""
        number = int(self.blocks[0]["number"], 16)
        parent = BlockRef(number + first - 1, self.blocks[first]["parentHash"])
        return await world.over(nodes).scan(parent, number + first, number + last, Scope(world.first_blocks))


@pytest.mark.parametrize("verify", [False, True])
async def test_withdrawals_are_found_in_blocks_as_a_node_gives_them(
    verify: bool, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Two of one amount to one address are two deposits; none of nothing; no question beyond the blocks."""
    recorded, world = Recorded(await make_stub()), World(ETH, token(TOKEN, "TOK"))
    async with nodes_of(recorded.stub.endpoint, clock=clock, seen=seen, verify=verify) as nodes:
        blocks = await recorded.scan(world, nodes, 0, 2)
    assert paid(blocks) == [
        [("ETH", 18_250_123 * 10**9), ("ETH", 18_250_123 * 10**9), ("ETH", 32_018_000_001 * 10**9)],
        [],
        [("ETH", 10**9)],
    ]
    found: list[Deposit] = [each for block in blocks for each in block.deposits]
    assert len({each.event_id for each in found}) == len(found)
    assert {(each.txid, each.sender, each.recipient) for each in found} == {(None, None, OURS)}
    assert recorded.asked == {"eth_chainId", "eth_getBlockByNumber"}


@pytest.mark.parametrize("verify", [False, True])
async def test_a_block_of_transactions_and_withdrawals_is_reported_whole(
    verify: bool, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """ETH by a transaction, a token's log, and a withdrawal to the same address: three deposits in this order."""
    recorded, world = Recorded(await make_stub()), World(ETH, token(TOKEN, "TOK"))
    async with nodes_of(recorded.stub.endpoint, clock=clock, seen=seen, verify=verify) as nodes:
        (block,) = await recorded.scan(world, nodes, 3, 3)
    assert paid([block]) == [[("ETH", 15 * 10**17), ("TOK", 2_500_000), ("ETH", 17_000_001 * 10**9)]]
    ether, tokens, withdrawn = block.deposits
    assert [each.txid for each in (ether, tokens)] == [each["hash"] for each in recorded.blocks[3]["transactions"][:2]]
    assert (withdrawn.txid, withdrawn.sender) == (None, None)
    assert len({each.event_id for each in block.deposits}) == 3
    assert ("eth_getLogs" in recorded.asked) is not verify
    assert seen.faults == []


HIDDEN: dict[str, Callable[[Recorded], object]] = {
    "the withdrawal": lambda recorded: recorded.blocks[3]["withdrawals"].pop(0),
    "the withdrawal's amount": lambda recorded: recorded.blocks[3]["withdrawals"][0].update(amount="0x1"),
    "all withdrawals": lambda recorded: recorded.blocks[3].update(withdrawals=[]),
    "the transaction": lambda recorded: recorded.blocks[3]["transactions"].pop(0),
    "the token's log": lambda recorded: recorded.receipts[1].update(logs=[]),
    "the token's receipt": lambda recorded: recorded.receipts.pop(1),
}


@pytest.mark.parametrize("what", HIDDEN)
async def test_nothing_of_such_a_block_can_be_hidden_from_who_verifies(
    what: str, make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """The scan ends, and the next endpoint's block is read."""
    liar, honest = Recorded(await make_stub()), Recorded(await make_stub())
    HIDDEN[what](liar)
    async with nodes_of(liar.stub.endpoint, clock=clock, seen=seen, verify=True) as nodes:
        with pytest.raises(NodeInconsistent):
            await liar.scan(World(ETH, token(TOKEN, "TOK")), nodes, 3, 3)
    assert seen.faults == [(1, Fault.FORGED)]
    both = (liar.stub.endpoint, honest.stub.endpoint)
    async with nodes_of(*both, clock=clock, seen=seen, verify=True) as nodes:
        (block,) = await liar.scan(World(ETH, token(TOKEN, "TOK")), nodes, 3, 3)
    assert len(block.deposits) == 3
