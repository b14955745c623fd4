"""What every `Node` promises, on the fake, on anvil and on Ganache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
import pytest

import evm
from component.worker_processes import eventually
from devstack.services import Anvil, EthereumNode, Ganache
from wallet_core.addresses import Address, lower_hex, parse_address
from wallet_core.blocks import Block, Frame, FrameKind, Transaction
from wallet_core.bloom import admitted, bloom_of
from wallet_core.errors import NodeInconsistent, RpcUnreachable, WrongChain
from wallet_core.ports import Node
from wallet_core.testing.fake_chain import FakeChain, FakeNode, transfer_log
from wallet_core.tokens import TRANSFER_TOPIC, read_transfer
from wallet_core.traces import movements
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.system_clock import SystemClock

RECIPIENT = Address(bytes.fromhex("c0ffee0000000000000000000000000000000000"))
FAILING_INIT_CODE = "0xfe"  # the designated invalid instruction (EIP-141)
GAS = hex(500_000)


class Chain(Protocol):
    """A chain that the test writes to; every method mines one block and returns the transaction's hash."""

    node: Node

    async def transfer(self, amount_wei: int) -> str: ...
    async def create_contract(self) -> str: ...
    async def create_token(self) -> str: ...
    async def token_transfer(self, token: str, amount: int) -> str: ...
    async def forward(self, amount_wei: int) -> str: ...
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

    async def create_token(self) -> str:
        await self.create_contract()
        return "0x" + "c0" * 20

    async def token_transfer(self, token: str, amount: int) -> str:
        contract = parse_address(token)
        return self._mine(self._chain.transfer(contract, 0, logs=[transfer_log(contract, RECIPIENT, amount)]))

    async def forward(self, amount_wei: int) -> str:
        contract = Address(b"\xf0" * 20)
        call = Frame(FrameKind.CALL, 1, lower_hex(contract), lower_hex(RECIPIENT), amount_wei, failed=False)
        return self._mine(self._chain.transfer(contract, amount_wei, calls=[call]))

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

    @property
    def is_without_traces(self) -> bool:
        return isinstance(self._service, Ganache)

    async def _rpc(self, method: str, *params: object) -> Any:
        return await asyncio.to_thread(self._service.rpc, method, *params)

    async def _mine(self, method: str, *params: object) -> str:
        self._snapshots.append(await self._rpc("evm_snapshot"))
        return str(await self._rpc(method, *params))

    async def _send(self, **transaction: str) -> str:
        sender = (await self._rpc("eth_accounts"))[0]
        sent = await self._mine("eth_sendTransaction", {"from": sender, "gas": GAS, **transaction})

        async def receipt() -> Any:
            return await self._rpc("eth_getTransactionReceipt", sent)

        await eventually(receipt, bool)  # anvil answers before it mines
        return sent

    async def transfer(self, amount_wei: int) -> str:
        return await self._send(to="0x" + RECIPIENT.hex(), value=hex(amount_wei))

    async def create_contract(self) -> str:
        return await self._send(data="0x00")

    async def create_token(self) -> str:
        return await self._create(evm.TOKEN)

    async def token_transfer(self, token: str, amount: int) -> str:
        return await self._send(to=token, data=evm.call_data(RECIPIENT, amount))

    async def forward(self, amount_wei: int) -> str:
        contract = await self._create(evm.FORWARDER)
        return await self._send(to=contract, value=hex(amount_wei), data=evm.call_data(RECIPIENT))

    async def _create(self, runtime: bytes) -> str:
        created = await self._send(data="0x" + evm.init_code(runtime).hex())
        receipt = await self.node.receipt(created, (await newest(self.node)).header.hash)
        assert receipt.contract_address is not None
        return receipt.contract_address

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

    async def test_with_one_endpoint_the_agreed_header_is_the_header(self, chain: Chain) -> None:
        """And there is none above the tip."""
        await chain.mine()
        tip = (await chain.node.head()).tip
        assert await chain.node.agreed_header(tip.number) == tip
        with pytest.raises(NodeInconsistent):
            await chain.node.agreed_header(tip.number + 1)

    async def test_a_node_of_another_genesis_block_is_of_another_chain(self, chain: Chain) -> None:
        """It answers nothing, whatever its chain id, and though it was in use before anybody named the block."""
        await chain.mine()
        genesis = await chain.node.header(0)
        chain.node.expect_genesis(genesis.hash)
        tip = (await chain.node.head()).tip
        chain.node.expect_genesis("0x" + "11" * 32)
        with pytest.raises(WrongChain):
            await chain.node.head()
        with pytest.raises(WrongChain):
            await chain.node.header(tip.number)

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

    async def test_a_token_transfer_is_logged_in_its_block_and_its_receipt(self, chain: Chain) -> None:
        """The same log by both ways; the header's bloom admits it and is exactly that of the block's logs."""
        token = await chain.create_token()
        before = (await newest(chain.node)).header
        assert admitted(before, [token], TRANSFER_TOPIC) == ()
        sent = await chain.token_transfer(token, 7)
        header = (await newest(chain.node)).header
        assert admitted(header, [token], TRANSFER_TOPIC) == (token,)
        logs = await chain.node.logs(header, [token, "0x" + "0c" * 20], TRANSFER_TOPIC)
        receipt = await chain.node.receipt(sent, header.hash)
        assert receipt.logs == tuple(logs)
        (log,) = logs
        transfer = read_transfer(log)
        assert transfer is not None
        assert (transfer.recipient, transfer.amount, log.address) == (RECIPIENT, 7, token)
        assert bloom_of(logs) == header.logs_bloom
        assert list(await chain.node.logs(before, [token], TRANSFER_TOPIC)) == []

    async def test_logs_of_a_block_that_is_gone_are_refused(self, chain: Chain) -> None:
        """Ganache says `[]` of a block that it does not know; that is never "no logs"."""
        token = await chain.create_token()
        await chain.token_transfer(token, 7)
        unknown = msgspec.structs.replace((await newest(chain.node)).header, hash="0x" + "ab" * 32)
        with pytest.raises((NodeInconsistent, RpcUnreachable)):
            await chain.node.logs(unknown, [token], TRANSFER_TOPIC)

    async def test_frames_are_those_of_the_blocks_transactions(self, chain: Chain) -> None:
        """Each by its hash with what it called, or None where the node (Ganache) has no traces."""
        sent = await chain.forward(5)
        block = await newest(chain.node)
        frames = await chain.node.frames(block)
        if isinstance(chain, Real) and chain.is_without_traces:
            assert frames is None
            return
        assert frames is not None
        assert frames.keys() == {sent}
        of_transaction = frames[sent]
        assert of_transaction is not None
        (moved,) = movements(block.transactions[0], of_transaction)
        assert (parse_address(moved.recipient), moved.value_wei, moved.ordinal) == (RECIPIENT, 5, 0)

    async def test_a_creation_names_its_contract(self, chain: Chain) -> None:
        """In the receipt; a plain transfer names none."""
        created = await chain.create_contract()
        receipt = await chain.node.receipt(created, (await newest(chain.node)).header.hash)
        assert receipt.contract_address is not None
        sent = await chain.transfer(1)
        receipt = await chain.node.receipt(sent, (await newest(chain.node)).header.hash)
        assert (receipt.contract_address, receipt.logs) == (None, ())

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
        """The time-out alone ends the wait, nothing is raised, and the count never falls."""
        seen = await chain.node.wait_for_head(0.01, 0)
        await chain.mine()
        heads = await chain.node.wait_for_head(0.01, seen)
        assert await chain.node.wait_for_head(0.01, heads + 1_000) >= heads

    async def test_a_new_head_ends_the_wait(self, chain: Chain) -> None:
        """A block that is announced wakes all who wait, long before the time-out."""
        seen = await chain.node.wait_for_head(0.01, 0)
        waiting = {asyncio.create_task(chain.node.wait_for_head(3_600, seen)) for _ in range(2)}
        while waiting:
            await chain.mine()
            done, waiting = await asyncio.wait(waiting, timeout=0.05)
            assert all(task.result() > seen for task in done)
