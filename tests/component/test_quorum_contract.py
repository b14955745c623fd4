"""What "so many endpoints agree" means, on fake nodes and on two anvils."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from component.test_quorum import ForkedAnvil
from devstack.services import Anvil
from devstack.tools import Tools
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_core.ports import Node
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.system_clock import SystemClock

BLOCKS_IN_COMMON = 5
QUORUM = 2


class Pair(ABC):
    """Two endpoints with BLOCKS_IN_COMMON blocks in common, and a node that asks both."""

    node: Node

    @abstractmethod
    async def mine_on_the_first(self) -> None: ...
    @abstractmethod
    async def mine_another_on_the_second(self) -> None:
        """A block that is not the first one's."""


class FakePair(Pair):
    def __init__(self) -> None:
        self._chain = FakeChain()
        for _ in range(BLOCKS_IN_COMMON):
            self._chain.mine()
        self._second = FakeNode(self._chain.snapshot(), SystemClock())
        first = FakeNode(self._chain, SystemClock())
        first.quorum = QUORUM
        first.others = [self._second]
        self.node = first

    async def mine_on_the_first(self) -> None:
        self._chain.mine()

    async def mine_another_on_the_second(self) -> None:
        self._second.chain = self._chain.branch(1)


class AnvilPair(Pair):
    def __init__(self, first: Anvil, second: Anvil, node: Node) -> None:
        self._first, self._second = first, second
        self.node = node

    async def mine_on_the_first(self) -> None:
        await asyncio.to_thread(self._first.rpc, "anvil_mine", "0x1")

    async def mine_another_on_the_second(self) -> None:
        await asyncio.to_thread(self._second.rpc, "anvil_mine", "0x1", "0x7")


class Unobserved:
    def request_ended(self, endpoint: int, method: str, seconds: float) -> None: ...
    def endpoint_failed(self, endpoint: int, fault: Fault) -> None: ...
    def endpoint_changed(self, status: EndpointStatus) -> None: ...


@asynccontextmanager
async def two_anvils(tools: Tools, make_anvil: Callable[..., Anvil]) -> AsyncIterator[Pair]:
    first = make_anvil()
    first.rpc("anvil_mine", hex(BLOCKS_IN_COMMON))
    second = ForkedAnvil(tools=tools, data=first.data.with_name("second"), of=first)
    second.start()
    try:
        async with EthereumNodes(
            [Endpoint(first.url, None), Endpoint(second.url, None)],
            chain_id=first.chain_id,
            with_finalized=False,
            clock=SystemClock(),
            events=Unobserved(),
            quorum=QUORUM,
        ) as node:
            yield AnvilPair(first, second, node)
    finally:
        second.stop()


@pytest.fixture(params=["fake", "anvil"])
async def pair(request: pytest.FixtureRequest, tools: Tools, make_anvil: Callable[..., Anvil]) -> AsyncIterator[Pair]:
    if request.param == "fake":
        yield FakePair()
        return
    async with two_anvils(tools, make_anvil) as pair:
        yield pair


class TestAgreedHeader:
    async def test_what_both_have_is_agreed_on(self, pair: Pair) -> None:
        """It is the same header as one endpoint alone gives."""
        for number in range(BLOCKS_IN_COMMON + 1):
            assert await pair.node.agreed_header(number) == await pair.node.header(number)

    async def test_what_one_has_alone_is_not_agreed_on(self, pair: Pair) -> None:
        """The other is late: there is nothing to compare with, though the first has an answer."""
        await pair.mine_on_the_first()
        assert (await pair.node.header(BLOCKS_IN_COMMON + 1)).number == BLOCKS_IN_COMMON + 1
        with pytest.raises(RpcUnreachable):
            await pair.node.agreed_header(BLOCKS_IN_COMMON + 1)

    async def test_what_they_disagree_on_is_said(self, pair: Pair) -> None:
        """Neither is believed; below the fork they still agree."""
        await pair.mine_on_the_first()
        await pair.mine_another_on_the_second()
        with pytest.raises(NodeInconsistent):
            await pair.node.agreed_header(BLOCKS_IN_COMMON + 1)

    async def test_a_block_that_nobody_has(self, pair: Pair) -> None:
        """Null twice is no agreement."""
        with pytest.raises(RpcUnreachable):
            await pair.node.agreed_header(BLOCKS_IN_COMMON + 9)
