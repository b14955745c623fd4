"""Which settled blocks were read: a durable record, so that it can be proved later that none was left out.

A block is *covered* when it left the window of unsettled blocks: it was scanned, its events were published, and it is
at or below the base. `state.sync` is compacted and keeps nothing of such a block, so a digest of it is kept, in
**buckets** of `BUCKET_BLOCKS` block numbers: the key `covered:<n>` holds the blocks n × 1024 to n × 1024 + 1023, as far
as they are covered. It is written in the transaction that moves the base, so each block is in exactly one step's.

**Digest.** d = SHA-256(d || block hash) over the blocks `first` to `last` in their order; d begins as 32 zero bytes; a
block hash is hashed as its text, `0x` and 64 lower-case hex digits. Whoever has the chain's headers can compute it. A
digest that differs says that one of the bucket's blocks is another, and not which one.

**Where coverage begins.** The first block covered is the one above the first base. Its bucket `begins`, and so does a
bucket in which coverage began anew: after a rewind, a lost checkpoint, or a time under a release that kept no records.
A rewind to block N deletes the records of all buckets from N's own on, and coverage begins at N + 1; only a record that
ends at N itself stays, and goes on. N's bucket is not computed again from a node's headers, for that would be a record
of what the node has now, and not of what was read. So up to 1,023 blocks below N were covered once and have no record
any more; `check_joins` names them, and a rescan reads them again.

The bucket of the base's number is the newest one, and counts only if it ends at the base. Otherwise somebody moved the
base without it, and coverage begins anew with the next block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from wallet_core.chain import BlockRef
from wallet_core.errors import CheckpointCorrupt

BUCKET_BLOCKS = 1_024
COVERED_PREFIX = b"covered:"
_DIGEST_AT_FIRST = bytes(32)


class Bucket(msgspec.Struct, frozen=True):
    """The covered blocks of one bucket."""

    first: int
    """The lowest block of the digest."""
    last: int
    """The highest one."""
    digest: str
    """See the module; 64 hex digits."""
    begins: bool = False
    """Whether coverage begins, or began anew, at `first`."""

    @property
    def number(self) -> int:
        """Which bucket it is."""
        return bucket_number(self.first)


@dataclass(frozen=True)
class Coverage:
    """What a state knows of what is covered."""

    newest: Bucket | None = None
    """The bucket that ends at the base; None where coverage begins with the next settled block."""
    filled: tuple[Bucket, ...] = field(default=(), compare=False)
    """The buckets below it that the last move ended. They are written with it; afterwards they are no part of the
    state, which is why two states that differ in them are equal."""


def bucket_number(block_number: int) -> int:
    """The bucket that a block belongs to."""
    return block_number // BUCKET_BLOCKS


def covered_key(number: int) -> bytes:
    """The key of a bucket's record."""
    return COVERED_PREFIX + str(number).encode()


def cover(coverage: Coverage, settled: Iterable[BlockRef]) -> Coverage:
    """What is covered once these blocks, in order and following the base, have left the window."""
    newest, filled = coverage.newest, []
    for ref in settled:
        if newest is None or newest.number != bucket_number(ref.number):
            if newest is not None:
                filled.append(newest)
            newest = Bucket(ref.number, ref.number - 1, _DIGEST_AT_FIRST.hex(), begins=newest is None)
        newest = msgspec.structs.replace(newest, last=ref.number, digest=_chained(newest.digest, ref.hash))
    return Coverage(newest, tuple(filled)) if newest != coverage.newest else coverage


def digest_of(hashes: Iterable[str]) -> str:
    """The digest of blocks with these hashes, in their order."""
    digest = _DIGEST_AT_FIRST.hex()
    for block_hash in hashes:
        digest = _chained(digest, block_hash)
    return digest


def read_newest(values: Mapping[bytes, bytes], base_number: int) -> Coverage:
    """What is covered by a state topic's records, below a base. Raises msgspec's errors for what is no record."""
    value = values.get(covered_key(bucket_number(base_number)))
    newest = None if value is None else msgspec.json.decode(value, type=Bucket)
    return Coverage(newest if newest is not None and newest.last == base_number else None)


def ending_at(buckets: Iterable[Bucket], base_number: int) -> Coverage:
    """What is covered after a rewind to that block."""
    return Coverage(next((bucket for bucket in buckets if bucket.last == base_number), None))


def changed(before: Coverage, before_base: int, after: Coverage, after_base: int) -> dict[bytes, bytes | None]:
    """The records to write when the base moves: by key the value, None for one that goes."""
    records: dict[bytes, bytes | None] = {}
    if before.newest is not None or after_base < before_base:  # else no record above the base can be there
        first_gone = bucket_number(after_base) + (after.newest is not None)
        records |= {covered_key(number): None for number in range(first_gone, bucket_number(before_base) + 1)}
    for bucket in (*after.filled, after.newest):
        if bucket is not None and bucket not in (*before.filled, before.newest):
            records[covered_key(bucket.number)] = msgspec.json.encode(bucket)
    return records


# --- reading back ---------------------------------------------------------------------------------------------------


def read_buckets(values: Mapping[bytes, bytes]) -> tuple[Bucket, ...]:
    """All buckets of a state topic, lowest first.

    Raises CheckpointCorrupt where a record is none, or says something of blocks that are not its bucket's.
    """
    found: list[Bucket] = []
    for key, value in values.items():
        if not key.startswith(COVERED_PREFIX):
            continue
        try:
            bucket = msgspec.json.decode(value, type=Bucket)
        except (msgspec.MsgspecError, ValueError) as error:
            raise CheckpointCorrupt(f"state.sync: {key.decode(errors='replace')}: {error}") from error
        if key != covered_key(bucket.number) or not bucket.first <= bucket.last < (bucket.number + 1) * BUCKET_BLOCKS:
            raise CheckpointCorrupt(
                f"state.sync: {key.decode(errors='replace')} covers blocks {bucket.first} to {bucket.last}"
            )
        found.append(bucket)
    return tuple(sorted(found, key=lambda bucket: bucket.first))


@dataclass(frozen=True)
class Blocks:
    """Some blocks in a row."""

    first: int
    last: int


@dataclass(frozen=True)
class Joins:
    """How the buckets join."""

    covered: Blocks | None
    """From the first covered block to the last; None where nothing is covered yet."""
    gaps: tuple[Blocks, ...] = ()
    """Settled blocks without a record, and nothing says why there is none."""
    unrecorded: tuple[Blocks, ...] = ()
    """Blocks that were covered before a rewind, a lost checkpoint or an older release, and have no record any more."""
    beyond: tuple[Blocks, ...] = ()
    """Blocks that have a record and are above the base."""


def check_joins(buckets: Sequence[Bucket], base_number: int, *, first_read: int, is_rewound: bool) -> Joins:
    """Whether the buckets, lowest first, join without a gap up to the base.

    `first_read`: the first block that was read. `is_rewound`: whether a rewind went back to the base; then coverage
    begins with the next block. Else a newest record that does not end at the base is a gap: it was lost, or an older
    release moved the base.

    That none overlaps another follows from `read_buckets`: each lies within its own 1,024 numbers.
    """
    beyond = tuple(Blocks(each.first, each.last) for each in buckets if each.last > base_number)
    below = [each for each in buckets if each.last <= base_number]
    gaps: list[Blocks] = []
    unrecorded: list[Blocks] = []
    last = below[-1].last if below else first_read - 1
    newest = [Blocks(last + 1, base_number)] if last < base_number else []
    if not below:
        return Joins(None, () if is_rewound else tuple(newest), tuple(newest) if is_rewound else (), beyond)
    lowest = below[0]
    if not lowest.begins:
        gaps.append(Blocks(0, lowest.first - 1))
    elif first_read < lowest.first:
        unrecorded.append(Blocks(first_read, lowest.first - 1))
    for lower, higher in pairwise(below):
        if higher.first > lower.last + 1:
            missing = Blocks(lower.last + 1, higher.first - 1)
            (unrecorded if higher.begins else gaps).append(missing)
    (unrecorded if is_rewound else gaps).extend(newest)
    return Joins(Blocks(lowest.first, last), tuple(gaps), tuple(unrecorded), beyond)


def _chained(digest: str, block_hash: str) -> str:
    return hashlib.sha256(bytes.fromhex(digest) + block_hash.encode()).hexdigest()
