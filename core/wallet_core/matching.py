"""The set of published addresses, and the transactions of a block that pay one of them.

The answer is exact; only its cost is a matter of luck. Three layers, each asked only about what the one before let
through:

- a **Bloom filter** (Bloom 1970; blocked, after Putze, Sanders and Singler 2007: all bits of an address lie in one
  64-bit word, so a question costs one cache miss). It lets through a stranger in 200 at 16 bits an address, one in
  800 at 27;
- **recent** additions, a plain set of at most `RECENT_MAX` addresses;
- **runs**: sorted arrays of 20-byte rows, each more than twice as long as the next, so there are few. A full recent
  set becomes a run, and runs of like length merge in bulk (O'Neil's log-structured merge): an address is copied a few
  times only.

Which bits an address sets are bits of the address itself. Addresses are ends of Keccak hashes and so spread evenly;
somebody who watches addresses of his own choosing can make the filter let more through, which costs time and never an
answer.

numpy's `S20` compares all 20 bytes, as unsigned numbers, and so sorts addresses right; but it drops trailing zero
bytes when it hands out a row as `bytes`. Rows are therefore compared inside numpy only, and never handed out.

At 10 million addresses: 34 MB of filter and 200 MB of rows, and as much again for a moment while the longest runs
merge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wallet_core.addresses import ADDRESS_SIZE, Address
from wallet_core.blocks import Transaction
from wallet_core.errors import NodeInconsistent

RECENT_MAX = 16_384
"""Addresses that wait in the plain set before they become a run."""
FILTER_BITS_PER_ADDRESS_MIN = 16
"""The filter is the smallest power of two that gives every address this many bits."""
_FILTER_WORDS_MIN = 1 << 10
_WORD_BITS = 64
_CHUNK = 1 << 18
"""Rows that the filter takes in one step: bounds the memory for temporary arrays."""
_HEX_ADDRESS_LENGTH = 2 + 2 * ADDRESS_SIZE
_ROW = np.dtype(f"S{ADDRESS_SIZE}")

_Rows = NDArray[np.bytes_]


class AddressSet:
    """A set of addresses that only grows."""

    def __init__(self, addresses: Iterable[Address] = ()) -> None:
        self._filter = _BloomFilter(capacity=0)
        self._recent: set[bytes] = set()
        self._runs: list[_Rows] = []
        self._size = 0
        self.add(addresses)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, address: Address) -> bool:
        return bool(self._members(_rows((address,))).size)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the filter and the runs take."""
        return self._filter.nbytes + sum(run.nbytes for run in self._runs)

    def add(self, addresses: Iterable[Address]) -> None:
        """Put addresses into the set; a repeated one changes nothing. Raises ValueError for one not of 20 bytes."""
        offered = list(set(addresses))
        if not offered:
            return
        rows = _rows(offered)
        known = self._members(rows)
        if known.size:
            offered = [offered[at] for at in np.setdiff1d(np.arange(rows.size), known).tolist()]
            rows = np.delete(rows, known)
        self._recent.update(offered)
        self._size += len(offered)
        if self._size <= self._filter.capacity:
            self._filter.add(rows)
        else:
            self._grow_filter()
        if len(self._recent) > RECENT_MAX:
            self._seal_recent()

    def matching_transactions(self, transactions: Sequence[Transaction]) -> list[Transaction]:
        """Those of a block's transactions that move ETH to an address of the set, in the block's order.

        Raises NodeInconsistent where a recipient or an amount cannot be read: such a transaction is never passed over.
        """
        payments = [paid for paid in transactions if paid.to is not None and paid.value != "0x0"]
        matches = [payments[at] for at in self.places([paid.to for paid in payments if paid.to is not None])]
        try:
            return [paid for paid in matches if int(paid.value, 16) > 0]
        except ValueError as error:
            raise NodeInconsistent(f"an amount in a block cannot be read: {error}") from None

    def places(self, recipients: Sequence[str]) -> list[int]:
        """Which of these addresses, each 0x and 40 hex digits, are in the set: their places in the list, ascending.

        Raises NodeInconsistent where one cannot be read.
        """
        if not recipients:
            return []
        try:
            return [int(place) for place in self._members(_rows_of_texts(recipients))]
        except ValueError as error:
            raise NodeInconsistent(f"a recipient in a block cannot be read: {error}") from None

    def _members(self, rows: _Rows) -> NDArray[np.intp]:
        """Which of the rows are in the set, as their places in ascending order."""
        suspects = self._filter.suspects(rows)
        if not suspects.size:
            return suspects
        asked = rows[suspects]
        found = np.zeros(asked.size, dtype=np.bool_)
        for run in self._runs:
            places = np.searchsorted(run, asked)
            places[places == run.size] = 0
            found |= run[places] == asked
        for at in np.flatnonzero(~found).tolist():
            found[at] = asked[at : at + 1].tobytes() in self._recent
        return suspects[found]

    def _seal_recent(self) -> None:
        run = np.sort(_rows(self._recent))
        while self._runs and self._runs[-1].size <= 2 * run.size:
            # "stable" is a merge sort that finds the two sorted halves and only merges them
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        self._runs.append(run)
        self._recent.clear()

    def _grow_filter(self) -> None:
        self._filter = _BloomFilter(capacity=self._size)
        for run in self._runs:
            self._filter.add(run)
        self._filter.add(_rows(self._recent))


class _BloomFilter:
    """Says of an address that it may have been added, or surely was not. Each sets up to four bits of one word."""

    def __init__(self, capacity: int) -> None:
        words = _FILTER_WORDS_MIN
        while words * _WORD_BITS < capacity * FILTER_BITS_PER_ADDRESS_MIN:
            words *= 2
        self.capacity = words * _WORD_BITS // FILTER_BITS_PER_ADDRESS_MIN
        """How many addresses it takes before it lets too many strangers through."""
        self._words = np.zeros(words, dtype=np.uint64)
        self._word_mask = np.uint32(words - 1)

    @property
    def nbytes(self) -> int:
        return self._words.nbytes

    def add(self, rows: _Rows) -> None:
        for start in range(0, rows.size, _CHUNK):
            words, bits = self._places(rows[start : start + _CHUNK])
            np.bitwise_or.at(self._words, words, bits)

    def suspects(self, rows: _Rows) -> NDArray[np.intp]:
        words, bits = self._places(rows)
        return np.flatnonzero(self._words[words] & bits == bits)

    def _places(self, rows: _Rows) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """For each row the word that it sets bits in, and those bits."""
        octets = rows.view(np.uint8).reshape(-1, ADDRESS_SIZE)
        words = octets.view(np.uint32)[:, 2] & self._word_mask
        positions = (octets[:, 16:20] & np.uint8(_WORD_BITS - 1)).astype(np.uint64)
        bits: NDArray[np.uint64] = np.bitwise_or.reduce(np.left_shift(np.uint64(1), positions), axis=1)
        return words, bits


def _rows(addresses: Collection[bytes]) -> _Rows:
    if set(map(len, addresses)) - {ADDRESS_SIZE}:
        raise ValueError(f"an address has {ADDRESS_SIZE} bytes")
    return np.frombuffer(b"".join(addresses), dtype=_ROW)


def _rows_of_texts(texts: Sequence[str]) -> _Rows:
    """The rows for `0x…` texts; decoding them as one text is ten times faster than one by one."""
    packed = bytes.fromhex("".join([text[2:] for text in texts]))
    # fromhex passes over white space, hence the second look at the length
    if set(map(len, texts)) != {_HEX_ADDRESS_LENGTH} or len(packed) != ADDRESS_SIZE * len(texts):
        raise ValueError("an address is 0x and 40 hex digits")
    return np.frombuffer(packed, dtype=_ROW)
