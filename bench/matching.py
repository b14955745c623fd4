"""What matching a block costs, beside a plain Python set: `python bench/matching.py [addresses …]` (default: 1 and 10
million).

Both answer the same questions over the same blocks, in turns, in one process; the ratios are what counts, the times
are this machine's. A block has 180 transactions, of which 110 move ETH, and one of them is to us in every tenth
block. Memory is counted: for the set, its table and one `bytes` object an address.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from wallet_core.addresses import Address
from wallet_core.blocks import Transaction
from wallet_core.matching import AddressSet

BLOCKS = 200
ROUNDS = 5
TRANSACTIONS = 180
PAYMENTS = 110
BATCH = 100_000


def addresses(count: int, seed: int) -> list[Address]:
    packed = np.random.default_rng(seed).bytes(20 * count)
    return [Address(packed[start : start + 20]) for start in range(0, len(packed), 20)]


def block(number: int, ours: Address) -> list[Transaction]:
    recipients = addresses(TRANSACTIONS, seed=1_000_000 + number)
    if number % 10 == 0:
        recipients[0] = ours
    return [
        Transaction(
            hash=f"0x{number:032x}{at:032x}",
            from_="0x" + "aa" * 20,
            to=f"0x{to.hex()}",
            value=hex(at) if at < PAYMENTS else "0x0",
        )
        for at, to in enumerate(recipients, start=1)
    ]


def match_in_set(members: set[Address], transactions: Iterable[Transaction]) -> list[Transaction]:
    return [
        paid
        for paid in transactions
        if paid.to is not None and paid.value != "0x0" and bytes.fromhex(paid.to[2:]) in members
    ]


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def best_us_per_block(work: Callable[[list[Transaction]], object], blocks: list[list[Transaction]]) -> float:
    return min(cpu_seconds(lambda: [work(each) for each in blocks]) for _ in range(ROUNDS)) / len(blocks) * 1e6


def compare(count: int) -> None:
    watched = addresses(count, seed=1)
    ours = AddressSet()

    def build() -> None:
        for start in range(0, count, BATCH):
            ours.add(watched[start : start + BATCH])

    build_seconds = cpu_seconds(build)
    members: set[Address] = set()
    set_build_seconds = cpu_seconds(lambda: members.update(watched))
    blocks = [block(number, watched[number]) for number in range(BLOCKS)]
    if not all(ours.matching_transactions(each) == match_in_set(members, each) for each in blocks):
        sys.exit("the two do not agree")

    ours_us = best_us_per_block(ours.matching_transactions, blocks)
    set_us = best_us_per_block(lambda each: match_in_set(members, each), blocks)
    set_bytes = sys.getsizeof(members) + count * sys.getsizeof(watched[0])
    print(
        f"{count:>12,} addresses | a block: {ours_us:5.1f} µs, set {set_us:5.1f} µs ({ours_us / set_us:.2f} of it)"
        f" | memory: {ours.nbytes / 1e6:6.1f} MB, set {set_bytes / 1e6:7.1f} MB ({ours.nbytes / set_bytes:.2f} of it)"
        f" | build: {build_seconds:5.2f} s, set {set_build_seconds:5.2f} s"
    )


for size in [int(text.replace("_", "")) for text in sys.argv[1:]] or [1_000_000, 10_000_000]:
    compare(size)
