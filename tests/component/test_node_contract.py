"""What every `Node` promises, on the fake, on anvil and on Ganache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from devstack.services import Anvil, EthereumNode, Ganache
from wallet_core.addresses import Address, parse_address
from wallet_core.blocks import Block, Transaction
from wallet_core.errors import NodeInconsistent
from wallet_core.ports import Node
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_workers.adapters.ethereum import EndpointStatus, EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.system_clock import SystemClock

RECIPIENT = Address(bytes.fromhex("c0ffee0000000000000000000000000000000000"))
FAILING_INIT_CODE = "0xfe"  # the designated invalid instruction (EIP-141)
GAS = hex(100_000)


class Chain(Protocol):
    """A chain that the test writes to; every method mines one block and returns the transaction's hash."""

    node: Node

    async def transfer(self, amount_wei: int) -> str: ...
    async def create_contract(self) -> str: ...
    async def fail(self) -> str: ...
    async def mine(self) -> None: ...
    async def reorganize(self, depth: int) -> None: ...


class Fake:
    def __init__(self) -> None:
        self._chain = FakeChain()
        self.node: Node = FakeNode(self._chain, SystemClock(), with_finalized=True)

    def _mine(self, transaction: Transaction) -> str:
        block = self._chain.mine(transaction)
        self._chain.finalize(block.header.number)
        return transaction.hash

    async def transfer(self, amount_wei: int) -> str:
        return self._mine(self._chain.transfer(RECIPIENT, amount_wei))

    async def create_contract(self) -> str:
        return self._mine(self._chain.transfer(None, 0))

    async def fail(self) -> str:
        return self._mine(self._chain.transfer(None, 0, fails=True))

    async def mine(self) -> None:
        self._chain.mine()

    async def reorganize(self, depth: int) -> None:
        self._chain.reorganize(depth)


class Real:
    def __init__(self, service: EthereumNode, node: Node) -> None:
        self._service = service
        self._snapshots: list[str] = []
        self.node = node

    async def _rpc(self, method: str, *params: object) -> Any:
        return await asyncio.to_thread(self._service.rpc, method, *params)

    async def _mine(self, method: str, *params: object) -> str:
        self._snapshots.append(await self._rpc("evm_snapshot"))
        return str(await self._rpc(method, *params))

    async def _send(self, **transaction: str) -> str:
        sender = (await self._rpc("eth_accounts"))[0]
        return await self._mine("eth_sendTransaction", {"from": sender, "gas": GAS, **transaction})

    async def transfer(self, amount_wei: int) -> str:
        return await self._send(to="0x" + RECIPIENT.hex(), value=hex(amount_wei))

    async def create_contract(self) -> str:
        return await self._send(data="0x00")

    async def fail(self) -> str:
        return await self._send(data=FAILING_INIT_CODE)

    async def mine(self) -> None:
        await self._mine("evm_mine")

    async def reorganize(self, depth: int) -> None:
        if isinstance(self._service, Anvil):
            await self._rpc("anvil_reorg", depth, [])
            return
        await self._rpc("evm_revert", self._snapshots[-depth])  # Ganache's only way to take blocks back
        for _ in range(depth):
            await self._rpc("evm_mine")


class Unobserved:
    def request_ended(self, endpoint: int, method: str, seconds: float) -> None: ...
    def endpoint_failed(self, endpoint: int, fault: Fault) -> None: ...
    def endpoint_changed(self, status: EndpointStatus) -> None: ...


@pytest.fixture(params=["fake", "anvil", "ganache"])
async def chain(request: pytest.FixtureRequest) -> AsyncIterator[Chain]:
    if request.param == "fake":
        yield Fake()
        return
    service: Anvil | Ganache = request.getfixturevalue(request.param)
    endpoint = Endpoint(service.url, service.ws_url)
    nodes = EthereumNodes(
        [endpoint], chain_id=service.chain_id, with_finalized=True, clock=SystemClock(), events=Unobserved()
    )
    async with nodes:
        yield Real(service, nodes)


async def newest(node: Node) -> Block:
    return await node.block((await node.head()).tip.number)


class TestNode:
    async def test_the_tip_is_the_newest_block(self, chain: Chain) -> None:
        """The head names the block that was mined last, and its header and block agree with it."""
        before = (await chain.node.head()).tip
        await chain.mine()
        head = await chain.node.head()
        assert head.tip.number == before.number + 1
        assert head.tip.parent_hash == before.hash
        assert await chain.node.header(head.tip.number) == head.tip
        assert (await chain.node.block(head.tip.number)).header == head.tip

    async def test_headers_are_linked_down_to_the_genesis_block(self, chain: Chain) -> None:
        """Each header names the hash of the one before it."""
        await chain.mine()
        await chain.mine()
        tip = (await chain.node.head()).tip
        headers = [await chain.node.header(number) for number in range(tip.number + 1)]
        assert [header.number for header in headers] == list(range(tip.number + 1))
        assert [header.parent_hash for header in headers[1:]] == [header.hash for header in headers[:-1]]

    async def test_the_finalized_block_is_on_the_chain_and_not_above_the_tip(self, chain: Chain) -> None:
        """Where a finalized block is asked for, it is a canonical one."""
        await chain.transfer(1)
        head = await chain.node.head()
        assert head.finalized is not None
        assert head.finalized.number <= head.tip.number
        assert await chain.node.header(head.finalized.number) == head.finalized

    async def test_a_transfer_is_in_its_block(self, chain: Chain) -> None:
        """Hash, recipient and amount are those that were sent; the receipt says that it succeeded."""
        sent = await chain.transfer(12_345)
        block = await newest(chain.node)
        assert [paid.hash for paid in block.transactions] == [sent]
        paid = block.transactions[0]
        assert paid.to is not None
        assert parse_address(paid.to) == RECIPIENT
        assert parse_address(paid.from_)
        assert int(paid.value, 16) == 12_345
        receipt = await chain.node.receipt(sent, block.header.hash)
        assert (receipt.transaction_hash, receipt.block_hash) == (sent, block.header.hash)
        assert receipt.succeeded

    async def test_a_contract_creation_has_no_recipient(self, chain: Chain) -> None:
        """`to` is null, and the receipt tells whether it worked."""
        created = await chain.create_contract()
        block = await newest(chain.node)
        assert [(each.hash, each.to) for each in block.transactions] == [(created, None)]
        assert (await chain.node.receipt(created, block.header.hash)).succeeded

    async def test_a_failed_transaction_is_in_its_block_and_did_not_succeed(self, chain: Chain) -> None:
        """A failed transaction is mined like any other; only its receipt tells."""
        failed = await chain.fail()
        block = await newest(chain.node)
        assert [each.hash for each in block.transactions] == [failed]
        assert not (await chain.node.receipt(failed, block.header.hash)).succeeded

    async def test_a_receipt_of_another_block_is_refused(self, chain: Chain) -> None:
        """What happened to a transaction in one block says nothing of another."""
        sent = await chain.transfer(1)
        parent_hash = (await newest(chain.node)).header.parent_hash
        with pytest.raises(NodeInconsistent):
            await chain.node.receipt(sent, parent_hash)

    async def test_an_unknown_transaction_has_no_receipt(self, chain: Chain) -> None:
        """Null is an error, never "did not happen"."""
        tip = (await chain.node.head()).tip
        with pytest.raises(NodeInconsistent):
            await chain.node.receipt("0x" + "ab" * 32, tip.hash)

    async def test_there_is_no_block_above_the_tip(self, chain: Chain) -> None:
        """Null is an error, never an empty block."""
        above = (await chain.node.head()).tip.number + 1
        with pytest.raises(NodeInconsistent):
            await chain.node.block(above)
        with pytest.raises(NodeInconsistent):
            await chain.node.header(above)

    async def test_a_fork_replaces_the_newest_blocks_only(self, chain: Chain) -> None:
        """Above the fork the hashes are new, below it they stay; the transactions are gone with their receipts."""
        await chain.mine()
        ancestor = (await chain.node.head()).tip
        sent = await chain.transfer(1)
        gone = (await newest(chain.node)).header
        await chain.mine()
        await chain.reorganize(2)
        replaced = await chain.node.header(gone.number)
        assert replaced.hash != gone.hash
        assert replaced.parent_hash == ancestor.hash
        assert await chain.node.header(ancestor.number) == ancestor
        with pytest.raises(NodeInconsistent):
            await chain.node.receipt(sent, gone.hash)

    async def test_waiting_for_a_head_ends_without_one(self, chain: Chain) -> None:
        """The time-out alone ends the wait, and nothing is raised."""
        await chain.node.wait_for_head(0.01)
        await chain.node.wait_for_head(0.01)

    async def test_a_new_head_ends_the_wait(self, chain: Chain) -> None:
        """A block that is announced wakes whoever waits, long before the time-out."""
        waiting = asyncio.create_task(chain.node.wait_for_head(3_600))
        while not waiting.done():
            await chain.mine()
            await asyncio.wait([waiting], timeout=0.05)
        await waiting
