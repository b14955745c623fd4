"""What `chain.verify` costs, as a ratio to reading the same block without it: `python bench/verification.py`.

A block of 180 signed transactions and as many receipts with two logs each, as a busy main network has. Measured from
the answer's bytes on; no network. The receipts are those of a block with a candidate only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from coincurve import PrivateKey
from eth_hash.backends.pycryptodome import keccak256

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))

from wallet_workers.adapters import commitments, execution_api
from wallet_workers.adapters.json_rpc import Answer, Answered
from wallet_workers.adapters.verification import Verification

TRANSACTIONS = 180
LOGS_PER_RECEIPT = 2
INPUT_BYTES = 300
ROUNDS = 10
BLOOM = "0x" + "ff" * 256

T = TypeVar("T")


def signed(nonce: int) -> dict[str, Any]:
    """A dynamic-fee transaction."""
    key = PrivateKey(keccak256(nonce.to_bytes(8, "big")))
    given: dict[str, Any] = {
        "type": "0x2", "chainId": "0x1", "nonce": hex(nonce), "gas": hex(21_000 + nonce), "to": "0x" + "ab" * 20,
        "value": hex(10**18 + nonce), "input": "0x" + "cd" * INPUT_BYTES, "maxFeePerGas": hex(10**10),
        "maxPriorityFeePerGas": hex(10**9), "accessList": [], "yParity": "0x0", "r": "0x1", "s": "0x1",
        "hash": "", "from": "0x" + keccak256(key.public_key.format(compressed=False)[1:])[-20:].hex(),
    }  # fmt: skip
    kind, fields = commitments._unsigned(msgspec.convert(given, commitments.SealedTransaction))
    signature = key.sign_recoverable(keccak256(bytes([kind]) + commitments._rlp(fields)), hasher=None)
    given["r"] = hex(int.from_bytes(signature[:32], "big"))
    given["s"] = hex(int.from_bytes(signature[32:64], "big"))
    given["yParity"] = hex(signature[64])
    sealed = msgspec.convert(given, commitments.SealedTransaction)
    given["hash"] = commitments.bytes_hash(commitments.transaction_bytes(sealed))
    return given


def sealed_block() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block that is what its hash says, and its receipts."""
    transactions = [signed(nonce) for nonce in range(TRANSACTIONS)]
    logs = {"address": "0x" + "11" * 20, "topics": ["0x" + "22" * 32] * 3, "data": "0x" + "33" * 32}
    receipts = [
        {
            "transactionHash": each["hash"], "status": "0x1", "type": "0x2", "cumulativeGasUsed": hex(21_000 * place),
            "logsBloom": BLOOM, "contractAddress": None,
            "logs": [
                {**logs, "transactionHash": each["hash"], "logIndex": hex(LOGS_PER_RECEIPT * place + index)}
                for index in range(LOGS_PER_RECEIPT)
            ],
        }
        for place, each in enumerate(transactions)
    ]  # fmt: skip
    for receipt in receipts:
        receipt["blockHash"] = ""
        for log in receipt["logs"]:
            log["blockHash"] = ""
    word = "0x" + "44" * 32
    block: dict[str, Any] = {
        **dict.fromkeys(["parentHash", "sha3Uncles", "stateRoot", "mixHash"], word), "hash": word,
        "miner": "0x" + "55" * 20, "logsBloom": BLOOM, "difficulty": "0x0", "number": "0x1", "gasLimit": "0x1c9c380",
        "gasUsed": "0x1c9c380", "timestamp": "0x1", "extraData": "0x", "nonce": "0x0000000000000000",
        "baseFeePerGas": "0x1", "transactions": transactions,
        "transactionsRoot": commitments.trie_root([
            commitments.transaction_bytes(msgspec.convert(each, commitments.SealedTransaction))
            for each in transactions
        ]),
        "receiptsRoot": commitments.trie_root([
            commitments.receipt_bytes(msgspec.convert(each, commitments.SealedReceipt)) for each in receipts
        ]),
    }  # fmt: skip
    block["hash"] = commitments.header_hash(msgspec.convert(block, commitments.SealedHeader))
    for receipt in receipts:
        receipt["blockHash"] = block["hash"]
        for log in receipt["logs"]:
            log["blockHash"] = block["hash"]
    return block, receipts


class Node:
    """Answers from bytes made before the clock runs."""

    def __init__(self, block: dict[str, Any], receipts: list[dict[str, Any]]) -> None:
        self._answers = {
            "eth_getBlockByNumber": block, "eth_getBlockByHash": block,
            "eth_getBlockReceipts": receipts, "eth_getTransactionReceipt": receipts[0],
        }  # fmt: skip
        self._bytes = {name: json.dumps({"id": 1, "result": result}).encode() for name, result in self._answers.items()}

    async def __call__(self, method: str, _params: Sequence[object], answer: Answer[T], /) -> Answered[T]:
        decoded = answer.decode(self._bytes[method]).result
        return Answered(None if isinstance(decoded, msgspec.UnsetType) else decoded)


async def milliseconds(once: Callable[[], Awaitable[object]]) -> float:
    """Of processor time, the best of some rounds: what else the machine does counts little."""
    took = []
    for _ in range(ROUNDS):
        started = time.process_time()
        await once()
        took.append((time.process_time() - started) * 1000)
    return min(took)


async def main() -> None:
    block, receipts = sealed_block()
    node, number = Node(block, receipts), int(block["number"], 16)
    wanted = (receipts[0]["transactionHash"], block["hash"])

    async def with_receipts() -> None:
        verification = Verification()
        await execution_api.block(verification.over(node), number)
        await execution_api.receipt(verification.over(node), *wanted)

    plain = await milliseconds(lambda: execution_api.block(node, number))
    header = await milliseconds(lambda: execution_api.header(Verification().over(node), number))
    checked = await milliseconds(lambda: execution_api.block(Verification().over(node), number))
    whole = await milliseconds(with_receipts)
    print(f"a block of {TRANSACTIONS} transactions, {len(json.dumps(block)) / 1000:.0f} kB")
    print(f"  as it comes                  {plain:8.2f} ms      1")
    print(f"  header checked               {header:8.2f} ms  {header / plain:5.0f}")
    print(f"  block checked                {checked:8.2f} ms  {checked / plain:5.0f}")
    print(f"  block and receipts checked   {whole:8.2f} ms  {whole / plain:5.0f}")


if __name__ == "__main__":
    asyncio.run(main())
