"""Makes records readable whose header names are not UTF-8.

Kafka's protocol says that a header's name is a string; the broker checks none of it, and stores whatever bytes a
producer sends. aiokafka decodes the names while it unpacks a batch and raises out of the middle of it: the records
before and behind, in that batch and in the other partitions that were just drained, are gone from its buffer, and the
next fetch runs into the same bytes. One message of a careless caller would stop its partition for ever.

So every consumer gets its fetched bytes mended before they are unpacked, for strangers may write to any topic: in a
name that is not UTF-8 each byte that is not ASCII is replaced by SUB, ASCII's own substitute for a character in error.
Nothing else of the record changes, length and offset included. Whoever reads the record's headers sees the SUB in the
name, and may refuse it (see `wallet_core.commands`).

The look costs one more unpacking by aiokafka's C code, a microsecond a record; only a batch that cannot be unpacked is
taken apart here (record batch, format 2: KIP-98, KIP-82).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c, decode_varint

from wallet_core.commands import SUBSTITUTE

_FETCH_API_KEY = 1
_BATCH_HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and last timestamp, producer id,
producer epoch, base sequence, number of records."""
_LENGTH_AND_BEFORE = struct.calcsize(">qi")
_CRC_AND_BEFORE = struct.calcsize(">qiibI")
_LENGTH, _CRC, _ATTRIBUTES, _RECORDS = 1, 4, 5, 12
_MAGIC_AT = struct.calcsize(">qii")
_CODEC_MASK = 0x07
_MAGIC_WITH_HEADERS = 2
_DECOMPRESS: Mapping[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}
_ASCII_ONLY = bytes(range(0x80)) + SUBSTITUTE.encode() * 0x80


def mend_header_names(consumer: Any) -> None:
    """Let this consumer read every record; to be called before it fetches."""
    client = consumer._client
    send = client.send

    async def send_and_mend(node_id: int, request: Any, **more: Any) -> Any:
        response = await send(node_id, request, **more)
        if getattr(response, "API_KEY", None) == _FETCH_API_KEY and response.topics:
            response.topics = [
                (topic, [(*partition[:-1], with_readable_names(partition[-1])) for partition in partitions])
                for topic, partitions in response.topics
            ]
        return response

    client.send = send_and_mend


def with_readable_names(message_set: bytes | None) -> bytes | None:
    """The same batches, each of whose header names can be decoded; the same object where there was nothing to do."""
    if message_set is None:
        return None
    pieces = []
    mended_any = False
    for start, end in _batches(message_set):
        batch = message_set[start:end]
        mended = batch if _is_readable(batch) else _mended(batch)
        mended_any = mended_any or mended is not batch
        pieces.append(mended)
    if not mended_any:
        return message_set
    rest = message_set[sum(end - start for start, end in _batches(message_set)) :]
    return b"".join(pieces) + rest


def _batches(message_set: bytes) -> Iterator[tuple[int, int]]:
    """Where each whole batch lies; a fetch may end with a part of one."""
    start = 0
    while start + _BATCH_HEADER.size <= len(message_set):
        end = start + _LENGTH_AND_BEFORE + int(struct.unpack_from(">i", message_set, start + 8)[0])
        if not start < end <= len(message_set):
            return
        yield start, end
        start = end


def _is_readable(batch: bytes) -> bool:
    """Whether aiokafka can decode every header name. What is damaged in another way is for it to say."""
    if batch[_MAGIC_AT] < _MAGIC_WITH_HEADERS:
        return True
    unpacked = DefaultRecordBatch(batch)
    if unpacked.is_control_batch or not unpacked.validate_crc():
        return True
    try:
        for _ in unpacked:
            pass
    except UnicodeDecodeError:
        return False
    return True


def _mended(batch: bytes) -> bytes:
    header = list(_BATCH_HEADER.unpack_from(batch))
    records = bytearray(_DECOMPRESS[header[_ATTRIBUTES] & _CODEC_MASK](batch[_BATCH_HEADER.size :]))
    position = 0
    for _ in range(header[_RECORDS]):
        position = _mend_record(records, position)
    header[_ATTRIBUTES] &= ~_CODEC_MASK
    header[_LENGTH] = _BATCH_HEADER.size - _LENGTH_AND_BEFORE + len(records)
    checked = _BATCH_HEADER.pack(*header)[_CRC_AND_BEFORE:] + records
    header[_CRC] = calc_crc32c(checked)
    return _BATCH_HEADER.pack(*header)[:_CRC_AND_BEFORE] + checked


def _mend_record(records: bytearray, position: int) -> int:
    """Mend the record that begins there, in place. Returns where the next one begins."""
    length, position = decode_varint(records, position)
    end = position + length
    position += 1  # attributes
    for _ in ("timestamp", "offset"):
        _, position = decode_varint(records, position)
    for _ in ("key", "value"):
        position = _after_bytes(records, position)
    headers, position = decode_varint(records, position)
    for _ in range(headers):
        size, position = decode_varint(records, position)
        name = bytes(records[position : position + size])
        try:
            name.decode()
        except UnicodeDecodeError:
            records[position : position + size] = name.translate(_ASCII_ONLY)
        position = _after_bytes(records, position + size)
    return int(end)


def _after_bytes(records: bytearray, position: int) -> int:
    size, position = decode_varint(records, position)
    return int(position) + max(int(size), 0)
