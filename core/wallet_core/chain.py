"""The automaton that follows one chain: extend, roll back, confirm, settle.

It holds the *window*: every block, oldest first, that the chain may still take back, above the newest *settled* block
(`base`), which it may not. Blocks are linked by their parent hashes, so depth is measured along the wallet's own chain
and never believed:

    base ─── confirmed ─── confirmed ─── unconfirmed ─── tip
      ▲ settled                 └────────── window ─────────┘

- **extend**: blocks join above the tip. Each must name the one before it as its parent; else the chain forked, and
  nothing is changed.
- **confirm**: by depth, a block with `confirmation_depth` blocks from itself to the tip, both included; by the
  `finalized` tag, a block at or below one that the node calls finalized *and that is in the window with that very
  hash*. Once confirmed stays confirmed: a finalized number that goes back changes nothing.
- **settle**: a block leaves the window when it is confirmed and `settle_depth` deep.
- **roll back**: blocks above the common ancestor leave; whatever was said of their deposits is taken back as
  `orphaned`, newest first, whether they were confirmed or not. A fork below the base has no ancestor here:
  `ForkBelowWindow`.

A node whose tip is lower than ours is late, and waited for, as long as it names a block of ours. One whose tip is below
the base names none: it is still syncing, or its chain was replaced, and its answers are of no use.

Far behind the tip one number is believed instead of measured: the node's tip at the time when it was asked, before the
blocks were fetched. Blocks that were settled below that tip (`Horizon`) are confirmed and settled as soon as they are
linked. At that depth a mistake would need the node to be wrong about `settle_depth` blocks. It is not believed where
its finalized block contradicts one of ours.

What is said (`announcements`) follows from one move as a whole: a block that joins and is confirmed by the same move
says `confirmed` only. All moves are pure: they return a new window, or raise and change nothing. The model is that of a
header chain with a reorg buffer, as in geth's `core/blockchain.go` and the exchange practice of waiting for N
confirmations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wallet_core.blocks import Head, Header
from wallet_core.deposits import Announcement, Deposit, Status
from wallet_core.errors import ForkBelowWindow, IllegalMove, NodeInconsistent


@dataclass(frozen=True)
class Rules:
    """When a block is confirmed, and when it is settled."""

    confirmation_depth: int | None
    """Blocks from the block to the tip, both included; None: by the `finalized` tag."""
    settle_depth: int
    """Likewise."""


@dataclass(frozen=True)
class BlockRef:
    """One block of one branch."""

    number: int
    hash: str


@dataclass(frozen=True)
class WindowBlock:
    """A block that the chain may still take back, with its deposits."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    """Seconds since the Unix epoch."""
    deposits: tuple[Deposit, ...]
    confirmed: bool = False
    """Whether its deposits were said to be `confirmed`."""

    @property
    def ref(self) -> BlockRef:
        """Number and hash."""
        return BlockRef(self.number, self.hash)


@dataclass(frozen=True)
class Horizon:
    """What the node said of its chain before the blocks of a move were fetched."""

    tip: int
    """Number of its newest block."""
    finalized: BlockRef | None = None
    """Its newest finalized block, where the rules ask for it."""


@dataclass(frozen=True)
class Window:
    """The unsettled blocks above the newest settled one."""

    base: BlockRef
    blocks: tuple[WindowBlock, ...] = ()

    @property
    def tip(self) -> BlockRef:
        """The newest block of the wallet's own chain."""
        return self.blocks[-1].ref if self.blocks else self.base

    def hash_at(self, number: int) -> str | None:
        """The hash of the base's or a window block's number; None outside."""
        if number == self.base.number:
            return self.base.hash
        index = number - self.base.number - 1
        return self.blocks[index].hash if 0 <= index < len(self.blocks) else None


@dataclass(frozen=True)
class Move:
    """The window after a move, and what is to be said because of it."""

    window: Window
    announcements: tuple[Announcement, ...]
    joined: tuple[BlockRef, ...] = ()
    """The blocks that joined by it."""


@dataclass(frozen=True)
class Extend:
    """Fetch the blocks `first` to `last` and extend by them."""

    first: int
    last: int


@dataclass(frozen=True)
class Confirm:
    """No new block; what was finalized meanwhile can be confirmed."""


@dataclass(frozen=True)
class FindAncestor:
    """The node is on another branch: compare hashes from `start` down, then roll back."""

    start: int


@dataclass(frozen=True)
class Rest:
    """Nothing to do: the tip is ours, or an earlier block of ours (a late node)."""


def next_move(window: Window, head: Head, blocks_max: int) -> Extend | Confirm | FindAncestor | Rest:
    """What the wallet should do about a node's head.

    Raises NodeInconsistent where its tip is below the base: no block of ours can be compared with that node's.
    """
    tip = head.tip
    if tip.number < window.base.number:
        raise NodeInconsistent(
            f"the node's newest block {tip.number} is below the settled block {window.base.number}: "
            "is it still syncing, or was its chain replaced?"
        )
    if tip.number > window.tip.number:
        return Extend(window.tip.number + 1, min(tip.number, window.tip.number + blocks_max))
    if window.hash_at(tip.number) != tip.hash:
        return FindAncestor(tip.number)
    return Confirm() if head.finalized is not None else Rest()


def validate_links(parent: BlockRef, headers: Sequence[Header]) -> int:
    """How many of the headers, from the first, continue `parent` without a gap: fewer where the chain forked."""
    linked = 0
    for header in headers:
        if header.number != parent.number + 1 or header.parent_hash != parent.hash:
            break
        parent = BlockRef(header.number, header.hash)
        linked += 1
    return linked


def extend(window: Window, rules: Rules, blocks: Sequence[WindowBlock], horizon: Horizon) -> Move:
    """Add blocks above the tip, then confirm and settle what that makes final. No blocks: only confirm and settle.

    Raises IllegalMove where a block does not continue the one before it, or comes with a verdict of its own.
    """
    parent = window.tip
    for block in blocks:
        if block.number != parent.number + 1 or block.parent_hash != parent.hash or block.confirmed:
            raise IllegalMove(f"block {block.number} {block.hash} does not continue {parent.number} {parent.hash}")
        parent = block.ref
    first_new = window.tip.number + 1
    longer = Window(window.base, (*window.blocks, *blocks))
    settled_below_horizon = -1
    if blocks and not _contradicts(longer, horizon):  # a tip that nothing was linked to may be on another branch
        settled_below_horizon = _settled_below_horizon(rules, horizon)
    confirmed_to = max(_confirmed_to(longer, rules, horizon), settled_below_horizon)

    announcements: list[Announcement] = []
    judged: list[WindowBlock] = []
    for block in longer.blocks:
        confirmed = block.confirmed or block.number <= confirmed_to
        judged.append(replace(block, confirmed=confirmed))
        if confirmed and not block.confirmed:
            status = Status.CONFIRMED
        elif block.number >= first_new:
            status = Status.DETECTED
        else:
            continue
        tip = max(longer.tip.number, horizon.tip) if block.number <= settled_below_horizon else longer.tip.number
        announcements += _say(status, block, confirmations=tip - block.number + 1)
    settled = _settle(Window(window.base, tuple(judged)), rules, settled_below_horizon)
    return Move(settled, tuple(announcements), tuple(block.ref for block in blocks))


def roll_back(window: Window, ancestor: int) -> Move:
    """Take back every block above `ancestor`. Raises ForkBelowWindow below the base, IllegalMove above the tip."""
    if ancestor < window.base.number:
        raise ForkBelowWindow(
            f"the chain forked below block {window.base.number} {window.base.hash}, the newest settled one; "
            "check that the node follows the right chain; if it does, `walletctl sync rewind --to N` goes on from a "
            "block below the fork, and a larger settleDepth bears such forks"
        )
    if ancestor >= window.tip.number:
        raise IllegalMove(f"there is nothing to take back above block {ancestor}: the tip is {window.tip.number}")
    kept = ancestor - window.base.number
    announcements: list[Announcement] = []
    for block in reversed(window.blocks[kept:]):
        announcements += reversed(_say(Status.ORPHANED, block, confirmations=0))
    return Move(Window(window.base, window.blocks[:kept]), tuple(announcements))


def settled_number(rules: Rules, head: Head) -> int:
    """The newest block below a node's head that is confirmed and settled, at least the genesis block."""
    finalized = BlockRef(head.finalized.number, head.finalized.hash) if head.finalized else None
    return max(_settled_below_horizon(rules, Horizon(head.tip.number, finalized)), 0)


def _settled_below_horizon(rules: Rules, horizon: Horizon) -> int:
    settled = horizon.tip - rules.settle_depth + 1
    if rules.confirmation_depth is not None:
        return min(settled, horizon.tip - rules.confirmation_depth + 1)
    return min(settled, horizon.finalized.number) if horizon.finalized else -1


def _contradicts(window: Window, horizon: Horizon) -> bool:
    finalized = horizon.finalized
    return finalized is not None and window.hash_at(finalized.number) not in (None, finalized.hash)


def _confirmed_to(window: Window, rules: Rules, horizon: Horizon) -> int:
    if rules.confirmation_depth is not None:
        return window.tip.number - rules.confirmation_depth + 1
    finalized = horizon.finalized
    if finalized is not None and window.hash_at(finalized.number) == finalized.hash:
        return finalized.number
    return -1


def _settle(window: Window, rules: Rules, settled_below_horizon: int) -> Window:
    settled_to = max(window.tip.number - rules.settle_depth + 1, settled_below_horizon)
    settled = 0
    for block in window.blocks:
        if not block.confirmed or block.number > settled_to:
            break
        settled += 1
    if not settled:
        return window
    return Window(window.blocks[settled - 1].ref, window.blocks[settled:])


def _say(status: Status, block: WindowBlock, confirmations: int) -> list[Announcement]:
    return [
        Announcement(status, deposit, block.number, block.hash, block.timestamp, confirmations)
        for deposit in block.deposits
    ]
