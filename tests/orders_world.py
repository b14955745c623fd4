"""Orders in a `World`: what became of them, and steps of a leader until they are worked off."""

from __future__ import annotations

import asyncio
import re

from wallet_core.errors import ForkBelowWindow
from wallet_core.orders import OrderState, OrderStatus
from wallet_workers.orders import LOOK_SECONDS
from wallet_world import Replica, World


async def worked_off(leader: Replica, rounds: int = 40) -> None:
    """Steps and the tasks beside them, until nothing is left to do for the chain as it stands."""
    for _ in range(rounds):
        assert await leader.lock.renew()
        await leader.catch_up()
        await asyncio.sleep(LOOK_SECONDS)


def outcome(world: World, order_id: str) -> OrderState:
    """What the checkpoint says of an order."""
    return next(order for order in world.state().orders.orders if order.id == order_id)


def outcome_or_none(world: World, order_id: str) -> OrderState | None:
    """The same; None where it says nothing."""
    return next((order for order in world.state().orders.orders if order.id == order_id), None)


def fork_below_window(world: World, *, keep: int) -> None:
    """Another branch above block `keep`, two blocks longer than the chain was."""
    depth = world.chain.tip.number - keep
    world.chain.reorganize(depth, [()] * (depth + 2))


async def step_to(leader: Replica, order_id: str, *, next_block: int) -> None:
    """Steps until a rescan has read up to a block."""
    while (found := outcome_or_none(leader.world, order_id)) is None or found.next_block < next_block:
        assert await leader.lock.renew()
        await leader.sequencer.step()
        await asyncio.sleep(LOOK_SECONDS)


async def rewound(leader: Replica, order_id: str, to: int, rounds: int = 6) -> None:
    """A halted leader is ordered to rewind, and works until it has an outcome and, where it can, the head."""
    leader.world.order(id=order_id, type="rewind", to=to)
    await leader.sequencer.recover()
    try:
        await worked_off(leader, rounds)
    except ForkBelowWindow:
        assert outcome(leader.world, order_id).status is OrderStatus.REFUSED


def told_block(world: World, order_id: str) -> int:
    """The block that a refusal says will do."""
    found = outcome(world, order_id)
    assert found.status is OrderStatus.REFUSED
    told = re.search(r"above block (\d+), .* rewind to that one or below", found.message)
    assert told, found.message
    return int(told[1])
