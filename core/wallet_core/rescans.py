"""Rescans: settled blocks read again, to say what was missed when they were read first.

An address that is watched later, or an asset that is added later, is matched from the next block on. A rescan finds
what they received before. It reads with the addresses and assets of today, from an asset's first block on or before it,
and says `confirmed` of every transfer whose last published status is anything else, `orphaned` included: the block is
settled, so the transfer is final.

**Where head and rescan meet** there is neither gap nor overlap. The rescan's last block is the newest that anybody may
have read when the order was taken: the newest of the node, of the wallet, and of the spans that were offered to other
scanners. Every block above it is fetched later, and matched with all that was published before. Blocks
of the window are waited for until they settle: by then the head has said all that it has to say of them, so what is
still missing is the rescan's to say. A fork in between puts other blocks in their place, which the head matches too.

**One chain.** Each batch continues the one before it by its parent hash, and belongs to a node that has our newest
settled block. So nothing is said of a block that is not below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wallet_core.chain import BlockRef, WindowBlock
from wallet_core.deposits import Announcement, Status
from wallet_core.orders import OrderState, OrderStatus
from wallet_core.published import Published

BLOCKS_PER_BATCH_MAX = 32
"""Blocks of one batch: one append."""
FIRST_BLOCK = 1
"""The genesis block has no transactions and nothing that it continues."""


@dataclass(frozen=True)
class Batch:
    """Blocks to be read next."""

    first: int
    last: int


@dataclass(frozen=True)
class Findings:
    """A rescan after a batch, and what is to be said because of it."""

    order: OrderState
    announcements: tuple[Announcement, ...]


def next_batch(order: OrderState, base: BlockRef) -> Batch | None:
    """The next blocks of a rescan that are settled; None where it waits for blocks to settle."""
    first = max(order.next_block, FIRST_BLOCK)
    last = min(order.to_block, base.number, first + BLOCKS_PER_BATCH_MAX - 1)
    return Batch(first, last) if first <= last else None


def is_over(order: OrderState) -> bool:
    """Whether every block of the rescan was read."""
    return max(order.next_block, FIRST_BLOCK) > order.to_block


def waiting(order: OrderState) -> OrderState:
    """The rescan where its next block is not settled yet, and it says so."""
    return replace(order, status=OrderStatus.RUNNING, message=f"waits for block {order.next_block} to settle")


def judge(order: OrderState, blocks: Sequence[WindowBlock], published: Published, tip_number: int) -> Findings:
    """What a batch of settled blocks, in their order, gives. `tip_number`: the wallet's tip, for the confirmations."""
    announcements = tuple(
        Announcement(
            Status.CONFIRMED, deposit, block.number, block.hash, block.timestamp, tip_number - block.number + 1
        )
        for block in blocks
        for deposit in block.deposits
        if (last := published.last(deposit.event_id)) is None or last.status != Status.CONFIRMED
    )
    after = replace(
        order,
        status=OrderStatus.RUNNING,
        message="",
        next_block=blocks[-1].number + 1 if blocks else order.next_block,
        parent_hash=blocks[-1].hash if blocks else order.parent_hash,
        published=order.published + len(announcements),
    )
    return Findings(finished(after) if is_over(after) else after, announcements)


def finished(order: OrderState) -> OrderState:
    """The rescan at its end."""
    return replace(
        order,
        status=OrderStatus.DONE,
        message=f"blocks {order.from_block} to {order.to_block} were read, {order.published} transfers were missing",
    )


def rewound(order: OrderState, to: int) -> OrderState:
    """A rescan after a rewind to block `to`: what it read above that, and what it was to continue, may be gone."""
    if order.type != "rescan" or order.status.is_final:
        return order
    return replace(order, next_block=min(order.next_block, max(order.from_block, to + 1)), parent_hash=None)
