"""Every way of a node to be wrong that is not simply being away: each has a rule, and a fault that metrics count."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from stub_node import CHAIN_ID, SHORT_SECONDS, Make, Seen, fail, new_chain, nodes_of, stall, until
from wallet_core.errors import NodeInconsistent, RpcUnreachable, WrongChain
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.backoff import BACKOFF_SECONDS_MAX
from wallet_workers.adapters.json_rpc import Fault

# --- the genesis block -----------------------------------------------------------------------------------------------


def other_genesis() -> FakeChain:
    chain = FakeChain(CHAIN_ID, "elsewhere")
    chain.mine_empty(3)
    return chain


async def test_an_endpoint_of_another_genesis_is_never_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The same chain id is not enough: block 0 must be the one that the wallet's state names."""
    wrong, right = await make_stub(other_genesis()), await make_stub()
    async with nodes_of(wrong.endpoint, right.endpoint, clock=clock, seen=seen) as nodes:
        nodes.expect_genesis(right.chain.blocks[0].header.hash)
        assert (await nodes.head()).tip == right.chain.tip
        assert [status.is_usable for status in nodes.endpoints_status()] == [False, True]
    assert wrong.methods == ["eth_chainId", "eth_getBlockByNumber"]
    assert seen.faults == [(1, Fault.WRONG_GENESIS)]


async def test_nobody_of_our_genesis_is_the_wrong_chain(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The text names both hashes."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        nodes.expect_genesis("0x" + "11" * 32)  # also one that was used before anybody named a block 0
        with pytest.raises(WrongChain, match=f"block 0 is {stub.chain.blocks[0].header.hash}, not 0x1111"):
            await nodes.head()


async def test_the_first_endpoints_genesis_holds_until_one_is_named(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Two endpoints of different chains with one id are never mixed."""
    first, second = await make_stub(), await make_stub(other_genesis())
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        first.respond = fail
        with pytest.raises(WrongChain):
            await nodes.head()
    assert (2, Fault.WRONG_GENESIS) in seen.faults


async def test_a_node_that_became_another_chain_of_the_same_id_is_found_out(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """The genesis block is proved on every connection."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        await stub.stop()
        stub.chain = other_genesis()
        await stub.start()
        with pytest.raises(WrongChain):
            await nodes.head()


# --- the quorum ------------------------------------------------------------------------------------------------------


async def test_a_quorum_of_one_asks_nobody_else(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The first endpoint's word is enough."""
    first, second = await make_stub(), await make_stub()
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        assert await nodes.agreed_header(2) == first.chain.blocks[2].header
    assert second.methods == []


async def test_endpoints_that_agree_settle_a_block(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Every endpoint is asked for it, each after the proof of its chain."""
    chain = new_chain()
    stubs = [await make_stub(chain) for _ in range(2)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        assert await nodes.agreed_header(2) == chain.blocks[2].header
    assert [stub.methods for stub in stubs] == [["eth_chainId", *["eth_getBlockByNumber"] * 2]] * 2


async def test_who_disagrees_with_the_quorum_is_not_used_until_it_agrees(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """Two of three agree: the third, though first in order, leads nobody down its own branch."""
    chain = new_chain()
    stubs = [await make_stub(chain.branch(2)), await make_stub(chain), await make_stub(chain)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        assert (await nodes.header(2)).hash == stubs[0].chain.blocks[2].header.hash
        assert await nodes.agreed_header(2) == chain.blocks[2].header
        assert (1, Fault.DISAGREES) in seen.faults
        for _ in range(3):
            seen.faults.clear()
            clock.advance(BACKOFF_SECONDS_MAX)
            assert await nodes.header(2) == chain.blocks[2].header
            await until(lambda: (1, Fault.DISAGREES) in seen.faults)  # it was asked to prove itself beside the question
            assert not nodes.endpoints_status()[0].is_usable
            assert "the others agree" in str(nodes.endpoints_status()[0].last_error)
        stubs[0].chain = chain
        clock.advance(BACKOFF_SECONDS_MAX)
        await nodes.header(2)
        await until(lambda: nodes.endpoints_status()[0].is_usable)


async def test_agreement_on_a_lower_block_brings_nobody_back(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Below the fork the branches are one: who sits on another one above it has not left it."""
    chain = new_chain()
    stubs = [await make_stub(chain.branch(2)), await make_stub(chain), await make_stub(chain)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await nodes.header(1)
        assert await nodes.agreed_header(3) == chain.blocks[3].header
        assert await nodes.agreed_header(1) == chain.blocks[1].header
        seen.faults.clear()
        clock.advance(BACKOFF_SECONDS_MAX)
        assert await nodes.header(3) == chain.blocks[3].header
        await until(lambda: (1, Fault.DISAGREES) in seen.faults or nodes.endpoints_status()[0].is_usable)
        assert not nodes.endpoints_status()[0].is_usable
        assert await nodes.header(3) == chain.blocks[3].header


async def test_a_quorum_for_another_block_of_the_same_height_is_followed(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """A fork that so many have seen: who has it is not held to the block that was agreed on before."""
    chain = new_chain()
    stubs = [await make_stub(chain) for _ in range(3)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await nodes.agreed_header(3)
        forked = chain.branch(2)
        stubs[0].chain = stubs[1].chain = forked
        assert await nodes.agreed_header(3) == forked.blocks[3].header
        for stub in stubs[:2]:  # each new connection has to prove its branch
            await stub.stop()
            await stub.start()
        assert await nodes.header(3) == forked.blocks[3].header


async def test_a_quorum_decides_about_the_genesis_block_too(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Whoever answers first does not: one endpoint of another chain with the same id keeps no wallet from beginning."""
    chain = new_chain()
    stubs = [await make_stub(other_genesis()), await make_stub(chain), await make_stub(chain)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        assert (await nodes.head()).tip == stubs[0].chain.tip
        agreed = await nodes.agreed_header(0)
        assert agreed == chain.blocks[0].header
        nodes.expect_genesis(agreed.hash)
        assert (await nodes.head()).tip == chain.tip
        assert not nodes.endpoints_status()[0].is_usable


async def test_without_a_quorum_nothing_is_agreed_and_nobody_is_blamed(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """One against one: the text names each endpoint's hash, and both stay usable."""
    chain = new_chain()
    other = chain.branch(2)
    stubs = [await make_stub(chain), await make_stub(other)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await nodes.head()
        with pytest.raises(NodeInconsistent) as raised:
            await nodes.agreed_header(2)
        for stub in stubs:
            assert f"({stub.origin}): {stub.chain.blocks[2].header.hash}" in str(raised.value)
        assert await nodes.agreed_header(1) == chain.blocks[1].header  # below the fork they agree
        assert nodes.endpoints_status()[0].is_usable
    assert seen.faults == [(1, Fault.DISAGREES), (2, Fault.DISAGREES)]


@pytest.mark.parametrize("respond", [fail, stall])
async def test_too_few_answers_are_no_quorum(respond: Any, make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """An endpoint that does not answer is no vote; the text says how many there were, and why not more."""
    chain = new_chain()
    first, second = await make_stub(chain), await make_stub(chain)
    second.respond = respond
    async with nodes_of(
        first.endpoint, second.endpoint, clock=clock, seen=seen, quorum=2, timeout=SHORT_SECONDS
    ) as nodes:
        with pytest.raises(RpcUnreachable, match=r"^1 of 2 endpoints needed gave block 2: endpoint 1 .*endpoint 2 "):
            await nodes.agreed_header(2)
        second.respond = None
        assert await nodes.agreed_header(2) == chain.blocks[2].header


async def test_a_late_endpoint_is_no_vote(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Not to have the block yet is neither yes nor no."""
    chain = new_chain()
    late = chain.branch(2)
    late.roll_back(2)
    stubs = [await make_stub(chain), await make_stub(late)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        with pytest.raises(RpcUnreachable, match="1 of 2"):
            await nodes.agreed_header(3)
    assert seen.faults == [(2, Fault.ABSENT)]


async def test_a_dead_endpoint_delays_a_quorum_once(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Two of three are enough; the one that stalls is not waited for again."""
    chain = new_chain()
    stubs = [await make_stub(chain) for _ in range(3)]
    async with nodes_of(
        *(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2, timeout=SHORT_SECONDS
    ) as nodes:
        for _ in range(2):  # the second question lets the other endpoints be proved beside it
            await nodes.head()
        await until(lambda: all(status.is_usable for status in nodes.endpoints_status()))
        stubs[2].respond = stall
        await nodes.agreed_header(2)
        asked = len(stubs[2].methods)
        for _ in range(5):
            assert await nodes.agreed_header(2) == chain.blocks[2].header
        assert len(stubs[2].methods) == asked


async def test_a_fork_of_all_endpoints_is_seen(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """Where the whole chain leaves a block that was agreed on, nobody is held to it: whoever asks must see the fork."""
    chain = new_chain()
    stubs = [await make_stub(chain) for _ in range(2)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        await nodes.agreed_header(2)
        chain.reorganize(2)
        for stub in stubs:
            await stub.stop()
            await stub.start()
        with pytest.raises(NodeInconsistent, match="the others agree"):
            await nodes.header(2)
        assert await nodes.header(2) == chain.blocks[2].header
        assert await nodes.agreed_header(2) == chain.blocks[2].header


# --- heads -----------------------------------------------------------------------------------------------------------


async def test_a_tip_that_goes_back_is_told_and_handed_on(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """A late node or a fork: the automaton tells them apart, and the count shows it."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        await nodes.head()
        stub.tags["latest"] -= 1
        assert (await nodes.head()).tip == stub.chain.blocks[-2].header
        assert nodes.endpoints_status()[0].is_usable
    assert seen.faults == [(1, Fault.TIP_BACK)]


async def test_a_finalized_block_that_goes_back_is_told_and_handed_on(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """What was confirmed stays confirmed; the count shows that the node cannot be right."""
    stub = await make_stub()
    stub.tags["finalized"] = 2
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, with_finalized=True) as nodes:
        await nodes.head()
        stub.tags["finalized"] = 1
        assert (await nodes.head()).finalized == stub.chain.blocks[1].header
    assert seen.faults == [(1, Fault.FINALIZED_BACK)]


async def test_where_the_first_endpoints_tip_stands_still_the_next_one_leads(
    make_stub: Make, clock: FakeClock, seen: Seen
) -> None:
    """A node that lost its peers answers for ever; its timestamps may lie. By our clock it stands still."""
    stuck, other = await make_stub(), await make_stub()
    lead = other.chain = stuck.chain.snapshot()
    ahead = clock.unix_time() + 1_000_000

    async def lie(call: dict[str, Any]) -> web.StreamResponse:
        found = stuck.result(call)
        if isinstance(found, dict):
            found["timestamp"] = hex(int(ahead))
        return web.json_response({"id": call["id"], "result": found})

    async def truth(call: dict[str, Any]) -> web.StreamResponse:
        found = other.result(call)
        if isinstance(found, dict):
            found["timestamp"] = hex(int(clock.unix_time()))
        return web.json_response({"id": call["id"], "result": found})

    stuck.respond, other.respond = lie, truth
    async with nodes_of(stuck.endpoint, other.endpoint, clock=clock, seen=seen, stale_after_seconds=60) as nodes:
        assert (await nodes.head()).tip.number == 3
        await nodes.head()
        await until(lambda: nodes.endpoints_status()[1].is_usable)
        clock.advance(61)
        lead.mine()
        other.tags["latest"] = 4
        assert (await nodes.head()).tip.number == 4
        assert (1, Fault.STALE) in seen.faults
        other.methods.clear()
        await nodes.header(1)
        assert other.methods  # it is asked first for everything now
        stuck.chain.mine()
        stuck.chain.mine()
        stuck.tags["latest"] = 5
        assert (await nodes.head()).tip.number == 5


async def test_a_stale_tip_is_handed_on_where_there_is_no_other(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """It never halts anything: blocks that are old are as true as before."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen, stale_after_seconds=60) as nodes:
        clock.advance(1_000)
        for _ in range(2):
            assert (await nodes.head()).tip == stub.chain.tip
        assert nodes.endpoints_status()[0].is_usable
    assert seen.faults == [(1, Fault.STALE)] * 2


# --- blocks and receipts ---------------------------------------------------------------------------------------------


async def test_another_block_than_asked_for_is_not_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The next endpoint is asked; nobody is put aside, for it may be late or on another branch."""
    first, second = await make_stub(), await make_stub()
    second.chain = first.chain

    async def one_below(call: dict[str, Any]) -> web.StreamResponse:
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "0x2":
            call["params"][0] = "0x1"
        return first.answer(call)

    first.respond = one_below
    async with nodes_of(first.endpoint, second.endpoint, clock=clock, seen=seen) as nodes:
        assert (await nodes.header(2)).number == 2
        assert (await nodes.block(2)).header.number == 2
    assert seen.faults == [(1, Fault.OTHER_BLOCK)] * 2


async def test_a_receipt_of_another_block_is_not_used(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """What happened in one block says nothing of another."""
    stub = await make_stub()
    async with nodes_of(stub.endpoint, clock=clock, seen=seen) as nodes:
        paid = stub.chain.blocks[1].transactions[0].hash
        with pytest.raises(NodeInconsistent, match="was asked for"):
            await nodes.receipt(paid, stub.chain.blocks[2].header.hash)
    assert seen.faults == [(1, Fault.OTHER_BLOCK)]
