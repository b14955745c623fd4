"""Rewinds: the window is emptied, and the chain followed anew from a settled block.

The way out of a fork below the window, of a wrong checkpoint, and of a lost one. It happens in two parts.

**Going back**, to block `to`. Every transfer whose last event puts it into a block above `to` that the node no longer
has is `orphaned`, newest first; then the base becomes block `to` as the node has it, and the window is empty. All that
was ever said is still in `transaction`, so an interrupted rewind begins this part again and says nothing twice.

A rewind is refused where it could leave something out or wrong: to a block that is not settled by the node; to one
above the base, for blocks between would never be read; and to one that may lie above the fork, for what the new branch
holds up to it would never be read, and what the old one held there never be taken back.

**What is common** to the wallet's branch and the node's. Blocks hang together by their hashes: where one of ours is
still the node's, all before it are. So where the node has our base nothing more needs to be known. Else the newest
block that is *known* to be common decides, and a higher target is refused with its number. Known are, by what the
wallet keeps of settled blocks,

- the block of a last event that says that a transfer is in the chain, up to the base: by its hash;
- the last block of a coverage bucket: its digest holds the hashes of all its blocks;
- the block below the first one from which assets are reported, if no such event below it is gone: nothing was read
  there by the head. (A transfer that a fork moves from above that block to below it is a rescan's to find.)

A wallet without a checkpoint has its events only.

From the next block on every asset counts, one too that began higher up: a transfer that was reported above its first
block, or found by a rescan, may be in a lower block now.

**Following again**, up to `replay_to`: the highest block that anything was ever said of. What the chain says of these
blocks is compared with what was said last of each transfer (`replay`):

- a block joins: transfers that were last put into another block of this number are `orphaned` (those of blocks higher
  than the node's tip were left to this), and so is one that is in this block now and was last put into another;
- `detected` is left out where the transfer is already detected or confirmed in this very block;
- `confirmed` is left out where it is already confirmed in this very block.

It ends when the base has passed `replay_to`; forks on the way are covered by the first rule, for which the whole last
events are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wallet_core.chain import BlockRef, Move, Window
from wallet_core.checkpoint import SyncState, lowered
from wallet_core.coverage import Bucket, ending_at
from wallet_core.deposits import Announcement, Status
from wallet_core.errors import OrderRefused
from wallet_core.messages import TransactionEvent
from wallet_core.orders import OrderState, OrderStatus
from wallet_core.published import Published, Said
from wallet_core.rescans import rewound as rescan_rewound

ORPHANS_PER_APPEND_MAX = 1_000
"""Events that one step of a rewind takes back."""


def check_target(to: int, base_number: int | None, settled_number: int) -> None:
    """Raises OrderRefused for a block above the wallet's base, or above what the node has settled.

    `base_number` is None for a wallet that lost its checkpoint.
    """
    if base_number is not None and to > base_number:
        raise OrderRefused(
            f"block {to} is above block {base_number}, the newest settled one of the wallet: forks above it need no "
            "rewind, and blocks below it would be left out"
        )
    if to > settled_number:
        raise OrderRefused(f"the node has settled blocks up to {settled_number} only: rewind to that one or below")


def check_common(to: int, newest_common: int) -> None:
    """Raises OrderRefused where that block is above the newest one that is known to be common; see the module."""
    if to > newest_common:
        raise OrderRefused(
            f"block {to} is above block {newest_common}, the newest one of the wallet that the node is known to have "
            "too: blocks between might be left out; rewind to that one or below"
        )


def check_confirmed(to: int, oldest_detected: int | None) -> None:
    """Raises OrderRefused where transfers up to that block still wait for their confirmation: it would be settled."""
    if oldest_detected is not None and to >= oldest_detected:
        raise OrderRefused(
            f"block {oldest_detected} holds transfers that are not confirmed yet, and nobody would confirm them: "
            f"rewind to block {oldest_detected - 1} or below"
        )


def gone(published: Published, canonical: Mapping[int, str]) -> list[Said]:
    """Last events in blocks that are gone, newest first: in those of another hash than the canonical one's."""
    found = [
        said
        for number, block_hash in canonical.items()
        for said in published.live_in(number)
        if said.block_hash != block_hash
    ]
    return _newest_first(found)


def take_back(gone: Iterable[Said], sequence: int) -> list[TransactionEvent]:
    """The `orphaned` events, numbered on from `sequence`."""
    return [
        said.event.model_copy(update={"status": Status.ORPHANED.value, "confirmations": 0, "sequence": sequence + n})
        for n, said in enumerate(gone, start=1)
        if said.event is not None
    ]


def begun(order: OrderState, orphaned: int) -> OrderState:
    """The rewind while it takes events back."""
    return replace(order, status=OrderStatus.RUNNING, published=order.published + orphaned)


def go_back(
    state: SyncState, order: OrderState, base: BlockRef, published: Published, buckets: Iterable[Bucket] = ()
) -> SyncState:
    """The state with an empty window above `base`, and the order done. `buckets`: what is covered."""
    replay_to = max(state.window.tip.number, published.newest_live_block or 0, state.replay_to or 0)
    done = replace(
        order,
        status=OrderStatus.DONE,
        message=f"the wallet follows the chain from block {base.number} {base.hash}; "
        f"{order.published} transfers were taken back",
    )
    book = replace(state.orders, orders=tuple(rescan_rewound(each, base.number) for each in state.orders.orders))
    return replace(
        state,
        window=Window(base),
        sequence=max(state.sequence, published.sequence),
        asset_first_blocks=lowered(state.asset_first_blocks, base.number + 1),
        orders=book.with_order(done),
        replay_to=replay_to if replay_to > base.number else None,
        coverage=ending_at(buckets, base.number),
    )


@dataclass(frozen=True)
class Replay:
    """A move over blocks that something was said of before."""

    gone: list[Said]
    """Last events to be taken back first."""
    move: Move
    """The move, without what was said before."""


def replay(published: Published, move: Move) -> Replay:
    """What is new of a move."""
    found = {said.sequence: said for said in gone(published, {ref.number: ref.hash for ref in move.joined})}
    for announced in move.announcements:
        last = published.last(announced.deposit.event_id)
        is_elsewhere = last is not None and last.is_live and last.block_hash != announced.block_hash
        if last is not None and is_elsewhere and announced.status is not Status.ORPHANED:
            found[last.sequence] = last
    taken_back = _newest_first(found.values())
    sequences = found.keys()
    fresh = tuple(said for said in move.announcements if not _is_echo(said, published, sequences))
    return Replay(taken_back, replace(move, announcements=fresh))


def is_replayed(state: SyncState) -> bool:
    """Whether every block that was ever spoken of is settled again."""
    return state.replay_to is not None and state.window.base.number >= state.replay_to


_SAYS_NO_LESS: Mapping[Status, Sequence[str]] = {
    Status.DETECTED: (Status.DETECTED, Status.CONFIRMED),
    Status.CONFIRMED: (Status.CONFIRMED,),
    Status.ORPHANED: (),
}


def _newest_first(found: Iterable[Said]) -> list[Said]:
    return sorted(found, key=lambda said: (said.block_number, said.sequence), reverse=True)


def _is_echo(said: Announcement, published: Published, taken_back: Collection[int]) -> bool:
    last = published.last(said.deposit.event_id)
    if last is None or last.sequence in taken_back:
        return False
    return last.block_hash == said.block_hash and last.status in _SAYS_NO_LESS[said.status]
