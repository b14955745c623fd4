"""What reading and matching a block costs, beside `json.loads` alone: `python bench/block_decode.py`.

The block has 180 transactions with the fields, the call data (a few hundred bytes on average) and the signatures that a
node of the main network sends; a tenth of the blocks pays one of the addresses (1 million here, `bench/matching.py` has
10). The adapter's whole path is measured from the answer's bytes on: decoding, checks, matching; no network.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))

from wallet_core.addresses import Address
from wallet_core.matching import AddressSet
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.json_rpc import Answer, Answered

BLOCKS = 100
ROUNDS = 5
TRANSACTIONS = 180
WATCHED = 1_000_000

T = TypeVar("T")


def answer_bytes(number: int, ours: Address) -> bytes:
    generator = np.random.default_rng(number)

    def digits(size: int) -> str:
        return "0x" + generator.bytes(size).hex()

    block_hash = digits(32)
    transactions: list[dict[str, object]] = [
        {
            "blockHash": block_hash,
            "blockNumber": hex(number),
            "from": digits(20),
            "gas": "0x5208",
            "gasPrice": "0x3b9aca00",
            "maxFeePerGas": "0x3b9aca00",
            "maxPriorityFeePerGas": "0x3b9aca00",
            "hash": digits(32),
            "input": digits(0 if at % 3 else int(generator.integers(4, 1_200))),
            "nonce": "0x1f",
            "to": "0x" + ours.hex() if number % 10 == 0 and at == 7 else digits(20),
            "transactionIndex": hex(at),
            "value": "0x0" if at % 5 < 2 else "0xde0b6b3a7640000",
            "type": "0x2",
            "accessList": [],
            "chainId": "0x1",
            "v": "0x0",
            "r": digits(32),
            "s": digits(32),
            "yParity": "0x0",
        }
        for at in range(TRANSACTIONS)
    ]
    header = {"number": hex(number), "hash": block_hash, "parentHash": digits(32), "timestamp": "0x65000000"}
    rest = {"logsBloom": digits(256), "stateRoot": digits(32), "withdrawals": [], "uncles": []}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": header | rest | {"transactions": transactions}}).encode()


class Canned:
    """Answers with the same bytes, decoded anew each time."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __call__(self, _method: str, _params: Sequence[object], answer: Answer[T]) -> Answered[T]:
        result = answer.decode(self._content).result
        if isinstance(result, msgspec.UnsetType):
            sys.exit("the canned answer is none")
        return Answered(result)


def best_us(work: Callable[[], object]) -> float:
    """CPU time of the best round, by block."""

    def once() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return min(once() for _ in range(ROUNDS)) / BLOCKS * 1e6


def main() -> None:
    packed = np.random.default_rng(1_000_000).bytes(20 * WATCHED)
    watched = [Address(packed[start : start + 20]) for start in range(0, len(packed), 20)]
    addresses = AddressSet(watched)
    contents = [answer_bytes(number, watched[number]) for number in range(BLOCKS)]
    asks = [Canned(content) for content in contents]

    async def read(match: bool) -> int:
        hits = 0
        for number, ask in enumerate(asks):
            block = await execution_api.block(ask, number)
            if match:
                hits += len(addresses.matching_transactions(block.transactions))
        return hits

    if asyncio.run(read(match=True)) != BLOCKS // 10:
        sys.exit("not every payment was found")
    with asyncio.Runner() as runner:
        whole = best_us(lambda: runner.run(read(match=True)))
        decoding = best_us(lambda: runner.run(read(match=False)))
    plain = best_us(lambda: [json.loads(content) for content in contents])
    size = sum(map(len, contents)) / BLOCKS / 1_000
    print(
        f"a block of {TRANSACTIONS} transactions, {size:.0f} kB | decoded and checked: {decoding:.0f} µs"
        f" | matched too: {whole:.0f} µs | json.loads alone: {plain:.0f} µs ({plain / whole:.1f} times as much)"
    )


main()
