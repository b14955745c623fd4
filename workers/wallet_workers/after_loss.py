"""A new checkpoint for a wallet that lost its own: bootstrap makes it, if a person ordered a rewind `after_loss`.

The newest such order of the topic counts, and only if nothing was published after it: an order that helped after an
earlier loss says nothing of this one. (By the records' times; so the clock of who sends it must not be behind the
leader's.) The new checkpoint stands at the block that it names, goes on with the
sequence of the last published event, and holds the order as a running one: the leader then takes back what is gone
above that block, and follows the chain without saying anything twice. Orders before it are over.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from wallet_core.blocks import Head
from wallet_core.chain import BlockRef, Rules, Window, settled_number
from wallet_core.checkpoint import SyncState
from wallet_core.errors import CheckpointLost, OrderRefused
from wallet_core.orders import OrderBook, OrderMessage, OrderState, OrderStatus, newest_rewind_after_loss
from wallet_core.ports import Node, OrderFeed, PublishedEvents
from wallet_core.published import Published
from wallet_core.rewinds import check_common, check_confirmed, check_target
from wallet_workers.common_blocks import CommonBlocks
from wallet_workers.said_before import SaidBefore
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()


async def state_after_loss(
    spoken: Sequence[str],
    rules: Rules,
    head: Head,
    node: Node,
    orders: OrderFeed,
    events: PublishedEvents,
    status: WorkerStatus,
) -> SyncState:
    """The state to begin with. `spoken`: the topics that hold records, if any; `head`: the node's.

    Raises CheckpointLost where nobody ordered it, or the order cannot be carried out.
    """
    known = (
        f"but {' and '.join(spoken)} hold records" if spoken else "though this wallet has had one: is this its Kafka?"
    )
    lost = f"state.sync holds no checkpoint, {known}"
    ordered = newest_rewind_after_loss(await _all_orders(orders))
    if ordered is None:
        raise CheckpointLost(
            f"{lost}; restore state.sync from a backup, or go on from a settled block: `walletctl sync rewind --to N`"
        )
    order, message = ordered
    try:
        published = await SaidBefore(events, status).load(None)
        _check_is_newer(message, published)
        check_target(order.to, None, settled_number(rules, head))
        check_confirmed(order.to, published.oldest_detected_block)
        if told := published.live_refs():
            common = await CommonBlocks(node, status).newest(told, (), 0, enough=order.to, tip_number=head.tip.number)
            check_common(order.to, common)
    except OrderRefused as error:
        raise CheckpointLost(f"{lost}; the order {order.id} to go on is refused: {error}") from error
    if order.to < head.tip.number:
        await node.block(order.to + 1)  # a wallet that cannot follow from there had better not begin there
    base = await node.agreed_header(order.to)
    running = OrderState(order.id, order.type, message.offset, OrderStatus.RUNNING, from_block=order.to, number=1)
    log.info("checkpoint_made_anew", order=order.id, block=order.to, sequence=published.sequence)
    return SyncState(
        Window(BlockRef(base.number, base.hash)),
        sequence=published.sequence,
        orders=OrderBook(message.offset + 1, (running,)),
        replay_to=published.newest_live_block,
    )


def _check_is_newer(message: OrderMessage, published: Published) -> None:
    """Raises OrderRefused where something was published after the order was sent."""
    if message.timestamp_ms < published.newest_timestamp_ms:
        raise OrderRefused("it is older than the last published event; send another")


async def _all_orders(feed: OrderFeed) -> Sequence[OrderMessage]:
    messages: list[OrderMessage] = []
    while found := await feed.read(messages[-1].offset + 1 if messages else 0):
        messages += found
    return messages
