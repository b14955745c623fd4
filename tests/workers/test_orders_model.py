"""Any history of heads, forks, rescans, rewinds and new leaders, against what the chain says in the end."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from virtual_time import in_virtual_time
from wallet_core.blocks import Transaction
from wallet_core.errors import ForkBelowWindow
from wallet_core.orders import OrderStatus
from wallet_workers.orders import LOOK_SECONDS
from wallet_world import ALICE, BLOCKS_BEFORE_BOOTSTRAP, BOB, SETTLE_DEPTH, Replica, World

STEPS_MAX = 500

acts = st.one_of(
    st.tuples(st.just("mine"), st.integers(1, 8), st.booleans()),
    st.tuples(st.just("pay"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("fork"), st.integers(1, 18), st.booleans()),
    st.tuples(st.just("rescan"), st.integers(0, 20), st.booleans()),
    st.tuples(st.just("rewind"), st.integers(0, 20), st.booleans()),
    st.tuples(st.just("watch"), st.just(0), st.booleans()),
    st.tuples(st.just("lead"), st.just(0), st.just(True)),
)


class History:
    """Carries out acts, each followed by some steps of the leader, or none."""

    def __init__(self) -> None:
        self.world = World()
        self.leader: Replica
        self.orders = 0
        self.fork_floor = BLOCKS_BEFORE_BOOTSTRAP - SETTLE_DEPTH + 1
        """The block that the wallet began with: forks are above it."""
        self.is_halted = False

    async def run(self, history: list[tuple[str, int, bool]]) -> None:
        await self.world.bootstrap()
        self.world.publish(ALICE)
        self.leader = Replica(self.world)
        await self.leader.lead()
        for act, number, then_steps in history:
            await getattr(self, act)(number)
            if then_steps:
                await self.work_off(number % 3 + 1)
        await self.watch(0)
        await self.work_off(20)
        self.order(type="rescan", from_block=0)
        for _ in range(3):
            await self.mine(SETTLE_DEPTH)
            await self.work_off(20)

    async def mine(self, blocks: int) -> None:
        self.world.chain.mine_empty(blocks)

    async def pay(self, transfers: int) -> None:
        chain = self.world.chain
        chain.mine(*[chain.transfer((ALICE, BOB)[n % 2], n + 1) for n in range(transfers)])

    async def fork(self, depth: int) -> None:
        """Some transfers move to other blocks, some are gone; the branch is one block longer."""
        chain = self.world.chain
        depth = min(depth, chain.tip.number - self.fork_floor)
        if depth < 1:
            return
        gone: list[Transaction] = []
        for block in chain.roll_back(depth):
            gone += block.transactions
        kept = gone[::2]
        for _ in range(depth + 1):
            chain.mine(*[kept.pop()] if kept else ())

    async def rescan(self, back: int) -> None:
        self.order(type="rescan", from_block=max(0, self.world.chain.tip.number - back))

    async def rewind(self, back: int) -> None:
        self.order(type="rewind", to=max(0, self.world.chain.tip.number - SETTLE_DEPTH - back))

    async def watch(self, _: int) -> None:
        self.world.publish(BOB)

    async def lead(self, _: int) -> None:
        await self.leader.sequencer.close()
        await self.leader.lock.release()
        self.leader = Replica(self.world)
        await self.leader.lead()

    def order(self, **value: object) -> None:
        self.orders += 1
        self.world.order(id=f"o{self.orders}", **value)

    async def work_off(self, rounds: int) -> None:
        for _ in range(rounds):
            assert await self.leader.lock.renew()
            try:
                for _ in range(STEPS_MAX):
                    if not await self.leader.sequencer.step():
                        break
                else:
                    raise AssertionError("the leader never comes to rest")
            except ForkBelowWindow:
                self.order(type="rewind", to=self.told())
                await self.leader.sequencer.recover()
            await asyncio.sleep(LOOK_SECONDS)

    def told(self) -> int:
        """Where a person goes back to: where the last refusal says, or to where the wallet began."""
        refusals = [each.message for each in self.world.state().orders.orders if each.status is OrderStatus.REFUSED]
        last = re.search(r"above block (\d+), .* known to have too", refusals[-1]) if refusals else None
        return int(last[1]) if last else self.fork_floor

    def check(self) -> None:
        world = self.world
        told: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in world.events():
            told[event["txid"]].append(event)
        assert [event["sequence"] for event in world.events()] == list(range(1, len(world.events()) + 1))
        in_chain = {paid.hash: block.header.hash for block in world.chain.blocks for paid in block.transactions}
        assert {
            txid: events[-1]["block_hash"] for txid, events in told.items() if events[-1]["status"] == "confirmed"
        } == in_chain
        assert {events[-1]["status"] for events in told.values()} <= {"confirmed", "orphaned"}
        for events in told.values():
            for before, after in itertools.pairwise(events):
                assert (before["status"], before["block_hash"]) != (after["status"], after["block_hash"])
                if (before["status"], after["status"]) == ("confirmed", "detected"):
                    assert before["block_hash"] != after["block_hash"]
        assert all(order.status in (OrderStatus.DONE, OrderStatus.REFUSED) for order in world.state().orders.orders)


@given(st.lists(acts, max_size=14))
@settings(max_examples=150, deadline=None)
def test_the_last_word_is_the_chain_s_and_nothing_is_said_twice(history: list[tuple[str, int, bool]]) -> None:
    """Whatever happened: every transfer of the chain is confirmed in its block, every other one is taken back."""
    in_virtual_time(_lived)(history)


async def _lived(history: list[tuple[str, int, bool]]) -> None:
    lived = History()
    await lived.run(history)
    lived.check()
