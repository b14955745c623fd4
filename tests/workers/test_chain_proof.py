"""The block that proves an endpoint's branch, and when the chain has left it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stub_node import Make, Seen, Stub, new_chain, nodes_of, until
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MAX
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Fault


async def restart(*stubs: Stub) -> None:
    """End their connections: every new one has to prove its chain."""
    for stub in stubs:
        await stub.stop()
        await stub.start()


async def all_usable(nodes: EthereumNodes) -> None:
    for _ in range(2):  # the second question lets the other endpoints be proved beside it
        await nodes.header(1)
    await until(lambda: all(status.is_usable for status in nodes.endpoints_status()))


def shorter(chain: FakeChain) -> FakeChain:
    """Another branch, whose tip is below the chain's."""
    found = chain.branch(2)
    found.roll_back(1)
    return found


@pytest.mark.parametrize("replaced", [lambda chain: chain.branch(2), shorter])
async def test_one_that_is_stuck_on_the_old_branch_is_not_followed_for_ever(
    replaced: Callable[[FakeChain], FakeChain], make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Two of three left the block that was agreed on, one after the other: they are the quorum, not the third."""
    chain = new_chain()
    first, second, _stuck = stubs = [await make_stub(chain) for _ in range(3)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await all_usable(nodes)
        await nodes.agreed_header(3)
        first.chain = second.chain = other = replaced(chain)
        await restart(first, second)
        with pytest.raises(NodeInconsistent, match="the others agree on"):
            await nodes.header(2)
        for _ in range(3):
            clock.advance(BACKOFF_SECONDS_MAX)
            assert await nodes.header(2) == other.blocks[2].header
        assert await nodes.agreed_header(2) == other.blocks[2].header


async def test_the_proofs_beside_the_questions_count_too(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """While the stuck one, first in order, answers everything, those who left are asked for their proof alone."""
    chain = new_chain()
    _stuck, second, third = stubs = [await make_stub(chain) for _ in range(3)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await all_usable(nodes)
        await nodes.agreed_header(3)
        second.chain = third.chain = other = chain.branch(2)
        for stub in (second, third):
            await stub.stop()
        with pytest.raises(RpcUnreachable, match="1 of 2"):
            await nodes.agreed_header(2)
        for stub in (second, third):
            await stub.start()
        clock.advance(BACKOFF_SECONDS_MAX)
        assert await nodes.header(2) == chain.blocks[2].header
        await until(lambda: {(2, Fault.DISAGREES), (3, Fault.DISAGREES)} <= set(seen.faults))
        assert await nodes.header(2) == other.blocks[2].header
        assert not nodes.endpoints_status()[0].is_usable


async def test_a_chain_that_became_shorter_is_followed(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Nobody has the block that was agreed on any more, nor any other in its place."""
    chain = new_chain()
    stubs = [await make_stub(chain) for _ in range(2)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await nodes.agreed_header(3)
        for stub in stubs:
            stub.chain = shorter(chain)
        stubs[1].chain = stubs[0].chain
        await restart(*stubs)
        with pytest.raises(NodeInconsistent, match="lacks block 3, and the others agree on"):
            await nodes.header(2)
        assert await nodes.header(2) == stubs[0].chain.blocks[2].header
        assert await nodes.agreed_header(2) == stubs[0].chain.blocks[2].header


async def test_one_that_lacks_the_block_is_not_used_until_it_has_it(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """One alone that is late, time and again, is no quorum."""
    chain = new_chain()
    late, *_ = stubs = [await make_stub(chain) for _ in range(3)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await all_usable(nodes)
        await nodes.agreed_header(3)
        late.chain = shorter(chain)
        await restart(late)
        for _ in range(3):
            seen.faults.clear()
            clock.advance(BACKOFF_SECONDS_MAX)
            assert await nodes.header(2) == chain.blocks[2].header
            await until(lambda: (1, Fault.INCONSISTENT) in seen.faults)
            assert not nodes.endpoints_status()[0].is_usable
        late.chain = chain
        clock.advance(BACKOFF_SECONDS_MAX)
        await nodes.header(2)
        await until(lambda: nodes.endpoints_status()[0].is_usable)


async def test_nobody_is_held_to_a_block_that_may_not_settle_yet(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Where only the agreement is asked, who has another block is counted, and the chain may leave the block."""
    chain = new_chain()
    odd, second, third = stubs = [await make_stub(chain) for _ in range(3)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await all_usable(nodes)
        odd.chain = chain.branch(2)
        assert await nodes.agreed_header(3, may_settle=False) == chain.blocks[3].header
        assert seen.faults == [(1, Fault.DISAGREES)]
        assert nodes.endpoints_status()[0].is_usable
        second.chain = third.chain = odd.chain
        await restart(*stubs)
        assert await nodes.header(3) == odd.chain.blocks[3].header
