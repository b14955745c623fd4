"""Spans: how they are cut, and which results the sequencer believes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address
from wallet_core.amounts import BaseUnits
from wallet_core.chain import BlockRef, Horizon, Rules, Window, WindowBlock, extend
from wallet_core.deposits import Announcement, Deposit
from wallet_core.messages import TransactionAsset
from wallet_core.spans import (
    SPAN_BLOCKS,
    SPANS_POSTED_MAX,
    Expected,
    Refusal,
    Span,
    SpanResult,
    Terms,
    cut_spans,
    judge,
    read_span,
    read_terms,
    write_result,
    write_span,
    write_terms,
)
from wallet_core.transfers import Scope

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
PAID = Deposit("e" * 64, "0x" + "ab" * 32, Address(b"\x01" * 20), Address(b"\xaa" * 20), BaseUnits(10**30), ETH)
TIP = BlockRef(100, "h100")
SPAN = Span(101, 101 + SPAN_BLOCKS - 1)
EXPECTED = Expected("cut", SPAN, TIP, generation=3, settings_hash="s", addresses_min=5)


def blocks(parent: BlockRef, count: int, *, paid: Sequence[int] = ()) -> tuple[WindowBlock, ...]:
    numbers = range(parent.number + 1, parent.number + 1 + count)
    return tuple(
        WindowBlock(n, f"h{n}", f"h{n - 1}", 12 * n, (replace(PAID, event_id=f"e{n}"),) if n in paid else ())
        for n in numbers
    )


RESULT = SpanResult(
    "cut", SPAN, generation=3, settings_hash="s", addresses=5, blocks=blocks(TIP, SPAN_BLOCKS, paid=[101, 130, 164])
)


def test_spans_cover_the_settled_blocks_without_a_gap() -> None:
    """Whole spans only: what is left over is scanned by the sequencer."""
    assert cut_spans(101, 100 + 3 * SPAN_BLOCKS + 5, 10) == [
        Span(101, 164),
        Span(165, 228),
        Span(229, 292),
    ]


@given(st.integers(0, 10_000), st.integers(-1, 20_000), st.integers(0, SPANS_POSTED_MAX))
def test_no_span_holds_a_block_that_is_not_settled(first: int, settled: int, spans_max: int) -> None:
    """However far the settled blocks go, spans follow each other and end below them."""
    spans = cut_spans(first, settled, spans_max)
    assert len(spans) <= spans_max
    assert [number for span in spans for number in range(span.first, span.last + 1)] == list(
        range(first, first + len(spans) * SPAN_BLOCKS)
    )
    assert all(span.last <= settled for span in spans)
    if len(spans) < spans_max:
        assert settled - first + 1 < (len(spans) + 1) * SPAN_BLOCKS


def test_a_good_result_is_taken_as_it_was_put_back() -> None:
    """Deposits come through whole, with amounts beyond what a JSON number holds."""
    assert judge(write_result(RESULT), EXPECTED) == RESULT


def test_a_scanner_that_knows_more_addresses_is_believed() -> None:
    """Accounts are made meanwhile."""
    assert judge(write_result(replace(RESULT, addresses=6)), EXPECTED) == replace(RESULT, addresses=6)


def without(number: int) -> tuple[WindowBlock, ...]:
    return tuple(block for block in RESULT.blocks if block.number != number)


def with_block(number: int, **changes: object) -> tuple[WindowBlock, ...]:
    return tuple(replace(block, **changes) if block.number == number else block for block in RESULT.blocks)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("result", "refusal"),
    [
        (replace(RESULT, cut="of an earlier leader"), Refusal.CUT),
        (replace(RESULT, span=Span(102, 165)), Refusal.RANGE),
        (replace(RESULT, generation=2), Refusal.GENERATION),
        (replace(RESULT, settings_hash="t"), Refusal.SETTINGS),
        (replace(RESULT, addresses=4), Refusal.ADDRESSES),
        (replace(RESULT, blocks=()), Refusal.GAP),
        (replace(RESULT, blocks=RESULT.blocks[:-1]), Refusal.GAP),
        (replace(RESULT, blocks=without(101)), Refusal.GAP),
        (replace(RESULT, blocks=without(120)), Refusal.GAP),
        (replace(RESULT, blocks=(*RESULT.blocks, *blocks(BlockRef(164, "h164"), 1))), Refusal.GAP),
        (replace(RESULT, blocks=RESULT.blocks[::-1]), Refusal.GAP),
        (replace(RESULT, blocks=blocks(BlockRef(101, "h101"), SPAN_BLOCKS)), Refusal.GAP),
        (replace(RESULT, blocks=with_block(120, hash="other")), Refusal.GAP),
        (replace(RESULT, blocks=with_block(120, parent_hash="other")), Refusal.GAP),
        (replace(RESULT, blocks=with_block(120, confirmed=True)), Refusal.GAP),
        (replace(RESULT, blocks=with_block(101, parent_hash="other")), Refusal.PARENT),
    ],
)
def test_nonsense_is_refused_by_its_cause(result: SpanResult, refusal: Refusal) -> None:
    """Another cut, range, settings or branch, an older address set, a gap: nothing of it is taken."""
    assert judge(write_result(result), EXPECTED) is refusal


@pytest.mark.parametrize(
    "offered",
    [
        b"",
        b"\xff\x00",
        b"null",
        b"{}",
        b"[" * 100_000,
        write_result(RESULT)[:-1],
        write_result(RESULT).replace(b'"to":"0x', b'"to":"0y'),
        write_result(RESULT).replace(b'"amount":"1', b'"amount":"x'),
        msgspec.json.encode({**msgspec.json.decode(write_result(RESULT)), "blocks": None}),
    ],
)
def test_what_cannot_be_read_is_refused(offered: bytes) -> None:
    """Whatever stands on the board, the sequencer does not fall over it."""
    assert judge(offered, EXPECTED) is Refusal.UNDECODABLE


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(offered: bytes) -> None:
    """Neither for the sequencer nor for a scanner."""
    assert judge(offered, EXPECTED) is Refusal.UNDECODABLE
    read_span(offered)
    read_terms(offered)


def test_spans_and_terms_come_back_as_they_were_written() -> None:
    """What the sequencer writes is what a scanner reads."""
    terms = Terms(3, "s", Scope({"native": 7}, "0x" + "6a" * 20), ["a scanner"])
    assert read_terms(write_terms(terms)) == terms
    assert read_span(write_span(SPAN)) == SPAN


@pytest.mark.parametrize(
    "offered", [b"[", b"{}", write_span(Span(10, 9)), write_span(Span(0, 3)), write_span(Span(1, 1 + SPAN_BLOCKS))]
)
def test_a_scanner_takes_no_span_that_is_none(offered: bytes) -> None:
    """Nor one that would keep it busy for days."""
    assert read_span(offered) is None


@given(
    st.sets(st.integers(101, 112)),
    st.integers(1, 6),
    st.sampled_from([Rules(3, 6), Rules(8, 4), Rules(None, 4), Rules(1, 1)]),
    st.integers(112, 130),
)
def test_a_span_at_once_says_what_its_blocks_would_one_by_one(
    paid: set[int], already: int, rules: Rules, node_tip: int
) -> None:
    """One transaction for many blocks changes when a thing is said, never what, nor the window that is left."""
    horizon = Horizon(node_tip, BlockRef(112, "h112"))
    history = blocks(TIP, 12, paid=sorted(paid))
    before = extend(Window(TIP), rules, history[:already], Horizon(100 + already)).window

    at_once = extend(before, rules, history[already:], horizon)
    one_by_one, said = before, list[Announcement]()
    for block in history[already:]:
        move = extend(one_by_one, rules, (block,), horizon)
        one_by_one = move.window
        said += move.announcements
    assert at_once.window == one_by_one

    def verdicts(announcements: Sequence[Announcement]) -> dict[str, str]:
        return {each.deposit.event_id: each.status.value for each in announcements}

    assert verdicts(at_once.announcements) == verdicts(said)
