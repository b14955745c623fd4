"""Kafka's record batches as no proper client would build them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.record.util import calc_crc32c

Headers = Sequence[tuple[str | bytes, bytes]]

CRC_AT, CRC_END = 17, 21


def with_crc(batch: bytes) -> bytes:
    """The batch with the checksum that its bytes ask for."""
    return batch[:CRC_AT] + int(calc_crc32c(batch[CRC_END:])).to_bytes(4, "big") + batch[CRC_END:]


def raw_batch(builder: Any, messages: Sequence[tuple[bytes | None, bytes | None, Headers]]) -> Any:
    """aiokafka's batch with these messages (key, value, headers); names given in bytes stand in it as they are."""
    stand_ins: dict[bytes, bytes] = {}
    for key, value, headers in messages:
        named = []
        for name, content in headers:
            if isinstance(name, bytes):
                stand_in = f"{len(stand_ins)}".rjust(len(name), "~")
                stand_ins[stand_in.encode()] = name
                name = stand_in  # noqa: PLW2901 - of the same length, to be exchanged below
            named.append((name, content))
        assert builder.append(timestamp=None, key=key, value=value, headers=named) is not None
    builder.close()
    if stand_ins:
        batch = bytes(builder._build())
        for placed, meant in stand_ins.items():
            assert batch.count(placed) == 1
            batch = batch.replace(placed, meant)
        builder._buffer = with_crc(batch)
    return builder
