"""Which settled blocks were read: the digests, and what their records prove."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.chain import BlockRef
from wallet_core.coverage import (
    BUCKET_BLOCKS,
    Blocks,
    Bucket,
    Coverage,
    Joins,
    changed,
    check_joins,
    cover,
    covered_key,
    digest_of,
    ending_at,
    read_buckets,
    read_newest,
)
from wallet_core.errors import CheckpointCorrupt


def block_hash(number: int) -> str:
    return f"0x{number:064x}"


def refs(first: int, last: int) -> list[BlockRef]:
    return [BlockRef(number, block_hash(number)) for number in range(first, last + 1)]


def bucket(first: int, last: int, *, begins: bool = False) -> Bucket:
    return Bucket(first, last, digest_of(block_hash(number) for number in range(first, last + 1)), begins)


def followed(base: int, steps: Sequence[int]) -> tuple[dict[bytes, bytes], int]:
    """What the topic holds after steps of so many settled blocks (below 0: a rewind by so many), and the base."""
    values: dict[bytes, bytes] = {}
    coverage = Coverage()
    for step in steps:
        after_base = max(base + step, 0)
        after = ending_at(read_buckets(values), after_base) if step < 0 else cover(coverage, refs(base + 1, after_base))
        for key, value in changed(coverage, base, after, after_base).items():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        coverage, base = read_newest(values, after_base), after_base
        assert coverage == after, "what is read back is not what was written"
    return values, base


def test_the_digest_is_the_one_that_the_documentation_gives() -> None:
    """Somebody else's program can compute it; it may never change."""
    digest = bytes(32)
    for text in ("0xaa", "0xbb"):
        digest = hashlib.sha256(digest + text.encode()).digest()
    assert digest_of(["0xaa", "0xbb"]) == digest.hex()
    assert digest_of(["0xbb", "0xaa"]) != digest.hex()


@given(st.integers(0, 3000), st.lists(st.integers(1, 2500), max_size=8))
def test_every_block_above_the_first_base_is_in_one_bucket(base: int, steps: list[int]) -> None:
    """However the steps are cut, and however often the state is read back meanwhile."""
    values, end = followed(base, steps)
    buckets = read_buckets(values)
    numbers = [number for each in buckets for number in range(each.first, each.last + 1)]
    assert numbers == list(range(base + 1, end + 1))
    assert buckets == tuple(bucket(each.first, each.last, begins=each is buckets[0]) for each in buckets)
    joins = check_joins(buckets, end, first_read=base + 1, is_rewound=False)
    assert joins == Joins(Blocks(base + 1, end) if steps else None)


@given(st.integers(0, 3000), st.lists(st.integers(-3000, 2500).filter(bool), max_size=8))
def test_after_rewinds_every_block_has_a_true_record_or_none(base: int, steps: list[int]) -> None:
    """No digest mixes what was read before a rewind with what was read after it; no hole passes for a bug."""
    values, end = followed(base, steps)
    buckets = read_buckets(values)
    assert all(each == bucket(each.first, each.last, begins=each.begins) for each in buckets)
    joins = check_joins(buckets, end, first_read=base + 1, is_rewound=bool(steps) and steps[-1] < 0)
    assert (joins.gaps, joins.beyond) == ((), ())
    with_record = {number for each in buckets for number in range(each.first, each.last + 1)}
    without = {number for blocks in joins.unrecorded for number in range(blocks.first, blocks.last + 1)}
    lowest = min(base + 1, joins.covered.first if joins.covered else end + 1)
    assert with_record | without == set(range(lowest, end + 1))
    assert not with_record & without


def test_a_rewind_deletes_its_bucket_and_those_above() -> None:
    """Coverage begins anew behind its target."""
    values, end = followed(0, [5000, -1500])
    assert end == 3500
    assert [each.number for each in read_buckets(values)] == [0, 1, 2]
    values, end = followed(0, [5000, -1500, 10])
    assert read_buckets(values)[-1] == bucket(3501, 3510, begins=True)
    joins = check_joins(read_buckets(values), end, first_read=1, is_rewound=False)
    assert (joins.gaps, joins.unrecorded) == ((), (Blocks(3072, 3500),))


def test_a_record_that_ends_at_a_rewinds_target_goes_on() -> None:
    """All that it covers is common to both branches: there is nothing to read again."""
    values, end = followed(0, [5000, 3071 - 5000])
    assert [each.number for each in read_buckets(values)] == [0, 1, 2]
    values, end = followed(0, [5000, 3071 - 5000, 10])
    assert check_joins(read_buckets(values), end, first_read=1, is_rewound=False) == Joins(Blocks(1, end))
    assert not read_buckets(values)[-1].begins


def test_a_full_bucket_is_not_written_again() -> None:
    """A step writes one record, unless it ends a bucket."""
    full = Coverage(bucket(0, BUCKET_BLOCKS - 1))
    after = cover(full, refs(BUCKET_BLOCKS, BUCKET_BLOCKS))
    assert set(changed(full, BUCKET_BLOCKS - 1, after, BUCKET_BLOCKS)) == {covered_key(1)}
    longer = cover(after, refs(BUCKET_BLOCKS + 1, BUCKET_BLOCKS + 1))
    assert set(changed(after, BUCKET_BLOCKS, longer, BUCKET_BLOCKS + 1)) == {covered_key(1)}
    assert changed(longer, BUCKET_BLOCKS + 1, longer, BUCKET_BLOCKS + 1) == {}


def test_a_step_that_leaves_a_block_out_spoils_the_digest() -> None:
    """What the whole is for."""
    left_out = cover(cover(Coverage(), refs(1, 4)), refs(6, 9)).newest
    assert left_out is not None
    assert (left_out.first, left_out.last) == (1, 9)
    assert left_out.digest != bucket(1, 9).digest


@pytest.mark.parametrize(
    ("buckets", "base", "expected"),
    [
        pytest.param((), 9, Joins(None), id="nothing is covered yet"),
        pytest.param(
            (bucket(0, 1023, begins=True), bucket(2048, 2050)),
            2050,
            Joins(Blocks(0, 2050), gaps=(Blocks(1024, 2047),)),
            id="a bucket is missing",
        ),
        pytest.param(
            (bucket(1024, 1030),), 1030, Joins(Blocks(1024, 1030), gaps=(Blocks(0, 1023),)), id="the lowest is missing"
        ),
        pytest.param(
            (bucket(0, 1000, begins=True), bucket(1024, 1030)),
            1030,
            Joins(Blocks(0, 1030), gaps=(Blocks(1001, 1023),)),
            id="a bucket ends too early",
        ),
        pytest.param(
            (bucket(0, 1000, begins=True), bucket(1030, 1031, begins=True)),
            1031,
            Joins(Blocks(0, 1031), unrecorded=(Blocks(1001, 1029),)),
            id="another release followed the chain meanwhile",
        ),
        pytest.param((bucket(0, 9, begins=True),), 12, Joins(Blocks(0, 9), gaps=(Blocks(10, 12),)), id="it still does"),
        pytest.param(
            (bucket(0, 9, begins=True), bucket(1024, 1030)),
            9,
            Joins(Blocks(0, 9), beyond=(Blocks(1024, 1030),)),
            id="a record above the base",
        ),
    ],
)
def test_what_the_records_prove(buckets: tuple[Bucket, ...], base: int, expected: Joins) -> None:
    """A missing record is told from one that a person's rewind deleted."""
    assert check_joins(buckets, base, first_read=base + 1, is_rewound=False) == expected


@pytest.mark.parametrize(
    ("buckets", "missing"),
    [
        pytest.param((bucket(0, 1023, begins=True),), Blocks(1024, 1500), id="the newest is missing"),
        pytest.param((), Blocks(7, 1500), id="none is left"),
    ],
)
def test_without_the_newest_record_nothing_is_proved(buckets: tuple[Bucket, ...], missing: Blocks) -> None:
    """Only a rewind to the very base deletes it, until the next block is settled."""
    covered = Blocks(0, 1023) if buckets else None
    assert check_joins(buckets, 1500, first_read=7, is_rewound=False) == Joins(covered, gaps=(missing,))
    assert check_joins(buckets, 1500, first_read=7, is_rewound=True) == Joins(covered, unrecorded=(missing,))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"covered:0", b"{}"),
        (b"covered:0", b"\xff"),
        (b"covered:1", b'{"first":0,"last":9,"digest":"00"}'),
        (b"covered:0", b'{"first":0,"last":1024,"digest":"00"}'),
        (b"covered:0", b'{"first":9,"last":8,"digest":"00"}'),
    ],
)
def test_a_record_that_cannot_be_is_corrupt(key: bytes, value: bytes) -> None:
    """One that covers another bucket's blocks would overlap that bucket's own."""
    with pytest.raises(CheckpointCorrupt, match=r"^state\.sync: covered:"):
        read_buckets({key: value})


def test_what_a_rewind_left_without_a_record_in_the_lowest_bucket_is_told() -> None:
    """The wallet read from block 10 on, a rewind went back to 15: blocks 10 to 15 have no record any more."""
    buckets = [Bucket(16, 30, "00" * 32, begins=True)]
    joins = check_joins(buckets, 30, first_read=10, is_rewound=False)
    assert joins == Joins(Blocks(16, 30), unrecorded=(Blocks(10, 15),))
