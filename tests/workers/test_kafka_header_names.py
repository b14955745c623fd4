"""Whatever a caller sent can be unpacked, and nothing but the name of a header is changed in it."""

from __future__ import annotations

import gzip

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from raw_batches import Headers, raw_batch, with_crc
from wallet_workers.adapters.kafka_header_names import with_readable_names

GZIP = 1
ATTRIBUTES_AT = 22
RECORDS_AT = 61

Message = tuple[bytes | None, bytes | None, Headers]


def batch_of(*messages: Message) -> bytes:
    return bytes(raw_batch(BatchBuilder(100_000, 0), messages)._build())


def gzipped(batch: bytes) -> bytes:
    packed = bytearray(batch[:RECORDS_AT] + gzip.compress(batch[RECORDS_AT:]))
    packed[ATTRIBUTES_AT] |= GZIP
    packed[8:12] = (len(packed) - 12).to_bytes(4, "big")
    return with_crc(bytes(packed))


def unpacked(message_set: bytes | None) -> list[Message]:
    assert message_set is not None
    messages: list[Message] = []
    records = MemoryRecords(message_set)
    while records.has_next():
        batch = records.next_batch()
        assert isinstance(batch, DefaultRecordBatch)
        assert batch.validate_crc()
        messages += [(each.key, each.value, each.headers) for each in batch]
    return messages


FINE: Message = (b"k", b"v" * 300, [("ce_id", b"\xff"), ("naïve", b"1")])
BROKEN: Message = (None, b'{"id": "x"}', [("before", b"1"), (b"ce\xff_\xc3id", b"\xfe"), ("behind", b"3")])
BROKEN_READ: Message = (None, b'{"id": "x"}', [("before", b"1"), ("ce\x1a_\x1aid", b"\xfe"), ("behind", b"3")])


def test_the_library_cannot_unpack_such_a_name() -> None:
    """Should it learn to, the module is not needed any more."""
    with pytest.raises(UnicodeDecodeError):
        unpacked(batch_of(BROKEN))


@pytest.mark.parametrize("packed", [bytes, gzipped], ids=["plain", "gzip"])
def test_every_record_of_the_batch_can_be_read(packed: type[bytes]) -> None:
    """Those before and behind it too, to the byte; in the broken name SUB stands for what is not ASCII."""
    message_set = batch_of(FINE) + packed(batch_of(FINE, BROKEN, FINE)) + batch_of(FINE)
    assert unpacked(with_readable_names(message_set)) == [FINE, FINE, BROKEN_READ, FINE, FINE]


def test_readable_batches_stay_as_they_are() -> None:
    """No copy is made of what is fine."""
    message_set = batch_of(FINE) + gzipped(batch_of(FINE, FINE))
    assert with_readable_names(message_set) is message_set
    assert with_readable_names(b"") == b""
    assert with_readable_names(None) is None


@pytest.mark.parametrize("cut", [1, 40, 70])
def test_a_batch_that_did_not_come_whole_is_left_for_the_next_fetch(cut: int) -> None:
    """A fetch ends where its size is reached."""
    whole = batch_of(BROKEN)
    part = whole[:-cut]
    assert with_readable_names(part) is part
    assert with_readable_names(whole + part) == (with_readable_names(whole) or b"") + part


def test_damage_of_another_kind_is_the_librarys_to_report() -> None:
    """A checksum that is wrong is never made right."""
    damaged = bytearray(batch_of(BROKEN))
    damaged[-1] ^= 1
    assert with_readable_names(bytes(damaged)) == bytes(damaged)
