"""A block's logs bloom: which contracts and topics its logs may have, in 2,048 bits of the header.

Every log sets, for its contract's address and for each of its topics, three bits: the low 11 bits of the first three
pairs of bytes of the Keccak-256 (Yellow Paper, 4.3.1). So the filter may say yes where there is nothing (bits of
others), and never no where there is something. That makes it good for two things:

- **saving**: where it excludes every token that is asked for, the block has none of their transfers, and no node need
  be asked;
- **distrust**: a node that hands out a log which its own header excludes contradicts itself. (No logs although the
  bloom says yes is normal.)

The header's hash covers the bloom, so whoever checks the hash need not trust the node for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from eth_hash.backends.pycryptodome import keccak256

from wallet_core.blocks import Header, Log
from wallet_core.errors import NodeInconsistent

BLOOM_BITS = 2_048
_BITS_PER_ENTRY = 3
_ENTRIES_REMEMBERED_MAX = 4_096
"""Contracts and topics whose bits are kept: those that are asked about in every block."""


@lru_cache(maxsize=_ENTRIES_REMEMBERED_MAX)
def entry_bits(entry: str) -> int:
    """The bits that an address or a topic, as 0x and hex digits, sets: a number whose bit n is the filter's bit n."""
    digest = keccak256(bytes.fromhex(entry[2:]))
    pairs = [int.from_bytes(digest[at : at + 2], "big") for at in range(0, 2 * _BITS_PER_ENTRY, 2)]
    bits = 0
    for pair in pairs:
        bits |= 1 << pair % BLOOM_BITS
    return bits


def bloom_of(logs: Sequence[Log]) -> str:
    """The filter of these logs, as a header writes it."""
    bits = 0
    for log in logs:
        bits |= _bits_of(log)
    return f"0x{bits:0{BLOOM_BITS // 4}x}"


def admitted(header: Header, contracts: Collection[str], topic: str) -> tuple[str, ...]:
    """Those contracts, as lower-case hex, that may have logged with this topic in the header's block."""
    bloom = int(header.logs_bloom, 16)
    if not _holds(bloom, entry_bits(topic)):
        return ()
    return tuple([contract for contract in contracts if _holds(bloom, entry_bits(contract))])


def check_admitted(header: Header, logs: Sequence[Log]) -> None:
    """Raises NodeInconsistent where the header's bloom excludes one of the logs that its block is said to hold."""
    bloom = int(header.logs_bloom, 16)
    for log in logs:
        if not _holds(bloom, _bits_of(log)):
            raise NodeInconsistent(
                f"the logs bloom of block {header.number} {header.hash} excludes log {log.index} of {log.address}, "
                "which the node says is in it"
            )


def _bits_of(log: Log) -> int:
    bits = entry_bits(log.address)
    for topic in log.topics:
        bits |= entry_bits(topic)
    return bits


def _holds(bloom: int, bits: int) -> bool:
    return bloom & bits == bits
