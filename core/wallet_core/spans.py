"""Spans: runs of settled blocks that any scanner may scan, and what the sequencer believes of the answers.

Far behind the tip, the sequencer *cuts* the settled blocks above its own tip into spans of SPAN_BLOCKS and offers them
on a board; scanners claim them, scan, and put results back; the sequencer takes the results in the order of the chain.
Everything on the board belongs to one *cut*, with a name that was never used before: a new leader, a wiped board, a
rolled-back window begin another cut, and nothing of an earlier one is looked at again.

**What a result must pass** (`judge`, pure): it decodes; it is of this cut and of this span's range; it was made under
the sequencer's own settings (generation and hash); the scanner knew at least the addresses that the sequencer knew when
it offered the span; its blocks are linked, without a gap and without a verdict of their own; and the first names the
sequencer's tip as its parent. Then the sequencer asks its own node for the hash of the span's last block, and scans
each block that is said to hold a deposit once more by itself, comparing the two as values. Deposits are rare, so this
costs little.

**What somebody who can write to the board could achieve**, all checks passed: *hide* a transfer, by an answer with the
true hashes and without it; and waste time. An invented deposit, a changed amount, a block of another branch or in the
wrong place does not pass. The hash of a block without deposits inside a span could be invented; it is published nowhere
and stored nowhere. So access to the board is as good as the power to suppress deposits of a catch-up (not at the head,
which the sequencer scans itself): guard Redis. A rescan finds what was hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from wallet_core.blocks import Header
from wallet_core.chain import BlockRef, WindowBlock, validate_links
from wallet_core.stored_blocks import StoredBlock, stored_block, window_block
from wallet_core.transfers import Scope

SPAN_BLOCKS = 64
"""Blocks of every span; what is left over is scanned by the sequencer."""
FAR_BEHIND_BLOCKS_MIN = 2 * SPAN_BLOCKS
"""Settled blocks above the sequencer's tip from which on it pays to share the work."""
SPANS_POSTED_MAX = 32
"""Spans offered and not taken back in: bounds the board, and how far scanners run ahead."""
CUT_LIFE_SECONDS = 300
"""A cut that its sequencer did not look after for so long goes by itself; the next step cuts again."""


@dataclass(frozen=True)
class Span:
    """The blocks `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class Terms:
    """What holds for every span of a cut."""

    generation: int
    """Of the sequencer's settings; a scanner under others leaves the spans alone."""
    settings_hash: str
    """Likewise."""
    scope: Scope
    """From the checkpoint: it may know a gas address that the scanner's settings no longer name."""
    excluded: Sequence[str] = ()
    """Scanners whose results were refused lately; they leave the spans to others."""


@dataclass(frozen=True)
class SpanResult:
    """What a scanner found in a span."""

    cut: str
    """Name of the cut that the span was claimed from."""
    span: Span
    generation: int
    """Of the scanner's own settings."""
    settings_hash: str
    """Likewise."""
    addresses: int
    """How many addresses the scanner knew when it matched."""
    blocks: tuple[WindowBlock, ...]


@dataclass(frozen=True)
class Expected:
    """What the sequencer knows of a span before it sees a result."""

    cut: str
    span: Span
    parent: BlockRef
    """The sequencer's tip."""
    generation: int
    settings_hash: str
    addresses_min: int
    """How many addresses the sequencer knew when it offered the span."""


class Refusal(StrEnum):
    """Why a result was not believed; a metric label."""

    UNDECODABLE = "undecodable"
    CUT = "cut"
    RANGE = "range"
    GENERATION = "generation"
    SETTINGS = "settings"
    ADDRESSES = "addresses"
    GAP = "gap"
    """Blocks are missing, out of order, not linked, or come with a verdict."""
    PARENT = "parent"
    """The first block continues another block than the sequencer's tip."""
    HASH = "hash"
    """The node gives another hash for the last block."""
    DEPOSITS = "deposits"
    """The sequencer finds something else in a block with deposits."""


_UNREADABLE = (ValueError, RecursionError)
"""What bytes from a stranger may raise; msgspec's errors are ValueErrors, and deep nesting ends its recursion."""


class _StoredResult(msgspec.Struct):
    cut: str
    span: Span
    generation: int
    settings_hash: str
    addresses: int
    blocks: list[StoredBlock]


def cut_spans(first: int, settled: int, spans_max: int) -> list[Span]:
    """Whole spans from block `first` on, none with a block above `settled`."""
    count = max(0, min((settled - first + 1) // SPAN_BLOCKS, spans_max))
    starts = range(first, first + count * SPAN_BLOCKS, SPAN_BLOCKS)
    return [Span(start, start + SPAN_BLOCKS - 1) for start in starts]


def judge(offered: bytes, expected: Expected) -> SpanResult | Refusal:
    """The result, or why it is refused; see the module for what is left to ask a node."""
    try:
        result = _read_result(offered)
    except _UNREADABLE:
        return Refusal.UNDECODABLE
    checks = (
        (result.cut == expected.cut, Refusal.CUT),
        (result.span == expected.span, Refusal.RANGE),
        (result.generation == expected.generation, Refusal.GENERATION),
        (result.settings_hash == expected.settings_hash, Refusal.SETTINGS),
        (result.addresses >= expected.addresses_min, Refusal.ADDRESSES),
        (_is_whole(result), Refusal.GAP),
    )
    for holds, refusal in checks:
        if not holds:
            return refusal
    return result if result.blocks[0].parent_hash == expected.parent.hash else Refusal.PARENT


def _is_whole(result: SpanResult) -> bool:
    """Whether every block of the span is there, linked to the one before it, and unjudged."""
    span, blocks = result.span, result.blocks
    if len(blocks) != span.last - span.first + 1 or any(block.confirmed for block in blocks):
        return False
    headers = [Header(block.number, block.hash, block.parent_hash, block.timestamp) for block in blocks]
    return validate_links(BlockRef(span.first - 1, blocks[0].parent_hash), headers) == len(blocks)


def write_span(span: Span) -> bytes:
    """The span as it is offered."""
    return msgspec.json.encode(span)


def read_span(offered: bytes) -> Span | None:
    """The span; None for what is none, or is larger than any that is cut."""
    try:
        span = msgspec.json.decode(offered, type=Span)
    except _UNREADABLE:
        return None
    return span if 0 < span.first <= span.last < span.first + SPAN_BLOCKS else None


def write_terms(terms: Terms) -> bytes:
    """The terms as they are announced."""
    return msgspec.json.encode(terms)


def read_terms(announced: bytes) -> Terms | None:
    """The terms; None for what is none."""
    try:
        return msgspec.json.decode(announced, type=Terms)
    except _UNREADABLE:
        return None


def write_result(result: SpanResult) -> bytes:
    """The result as it is put back."""
    return msgspec.json.encode(
        _StoredResult(
            result.cut,
            result.span,
            result.generation,
            result.settings_hash,
            result.addresses,
            [stored_block(block) for block in result.blocks],
        )
    )


def _read_result(offered: bytes) -> SpanResult:
    stored = msgspec.json.decode(offered, type=_StoredResult)
    return SpanResult(
        stored.cut,
        stored.span,
        stored.generation,
        stored.settings_hash,
        stored.addresses,
        tuple(window_block(block) for block in stored.blocks),
    )
