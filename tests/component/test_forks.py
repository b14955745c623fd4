"""The chain takes blocks back: what was said of their deposits is taken back too. On a real anvil, by its own forks.

Each test's chain is its own, with blocks only when the test says so. A fork is `anvil_reorg`: the newest blocks are
replaced by as many others, which hold the transactions given to it; `anvil_rollback` only takes blocks away.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from component.worker_processes import (
    CONFIRMATION_DEPTH,
    SETTLE_DEPTH,
    Wallet,
    Worker,
    running_wallet,
)
from devstack.services import Anvil, Kafka, Redis
from wallet_core.messages import Topic
from wallet_core.settings import Role

STRANGER = "0x" + "11" * 20


@pytest.fixture
async def wallet(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> AsyncIterator[Wallet]:
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil(mining=False)) as wallet:
        await wallet.start_all()
        yield wallet


def sync_of(wallet: Wallet) -> Worker:
    return next(worker for worker in wallet.workers if worker.role is Role.SYNC)


async def deposit(wallet: Wallet, address: str, amount_wei: int = 10**18) -> str:
    """A deposit in the next block, beside a stranger's transfer: a fork without the latter makes another block."""
    txid = await wallet.pay(address, amount_wei)
    await wallet.pay(STRANGER)
    await wallet.mine()
    return txid


async def raw(wallet: Wallet, txid: str) -> str:
    return str(await wallet.rpc("eth_getRawTransactionByHash", txid))


async def reorganize(wallet: Wallet, depth: int, kept: dict[str, int] | None = None) -> None:
    """Replace the newest blocks; `kept` are raw transactions, with the new block that holds each, from 0."""
    before = (await wallet.rpc("eth_getBlockByNumber", "latest", False))["hash"]
    await wallet.rpc("anvil_reorg", depth, [[transaction, block] for transaction, block in (kept or {}).items()])
    assert (await wallet.rpc("eth_getBlockByNumber", "latest", False))["hash"] != before


def stories(events: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(event[name] for name in names) for event in events]


async def test_a_deposit_that_the_chain_dropped_is_orphaned(wallet: Wallet) -> None:
    """A fork without the transaction takes back `detected`, with the block that held it, and says nothing more."""
    address = await wallet.create_account()
    txid = await deposit(wallet, address)
    (detected,) = await wallet.events("detected")
    await reorganize(wallet, 1)
    _, orphaned = await wallet.events("detected", "orphaned")
    assert orphaned["event_id"] == detected["event_id"]
    assert orphaned["block_hash"] == detected["block_hash"]
    assert (orphaned["txid"], orphaned["confirmations"]) == (txid, 0)
    other = await deposit(wallet, address, 5)
    await wallet.events("detected", "orphaned", "detected")
    await wallet.mine(CONFIRMATION_DEPTH - 1)
    events = await wallet.events("detected", "orphaned", "detected", "confirmed")
    assert [event["txid"] for event in events[2:]] == [other, other]


async def test_the_same_transfer_in_another_block_keeps_its_event_id(wallet: Wallet) -> None:
    """A transaction that is mined again is the same deposit: orphaned, detected in its new block, confirmed there."""
    address = await wallet.create_account()
    txid = await deposit(wallet, address)
    await wallet.events("detected")
    first_block = await wallet.block_of(txid)
    await wallet.mine()
    await reorganize(wallet, 2, {await raw(wallet, txid): 1})
    second_block = await wallet.block_of(txid)
    await wallet.events("detected", "orphaned", "detected")
    await wallet.mine(CONFIRMATION_DEPTH - 1)
    events = await wallet.events("detected", "orphaned", "detected", "confirmed")
    assert len({event["event_id"] for event in events}) == 1
    assert [event["block_hash"] for event in events] == [first_block, first_block, second_block, second_block]
    assert stories(events, "sequence") == [(1,), (2,), (3,), (4,)]


async def test_a_confirmed_deposit_is_orphaned_too(wallet: Wallet) -> None:
    """A fork deeper than the confirmation, and above the settled blocks, takes back what was confirmed."""
    address = await wallet.create_account()
    txid = await deposit(wallet, address)
    await wallet.mine(CONFIRMATION_DEPTH)
    told = await (await wallet.journal()).until(
        Topic.TRANSACTION, lambda seen: bool(seen) and seen[-1].json()["status"] == "confirmed"
    )
    before = [each.json()["status"] for each in told]
    await reorganize(wallet, CONFIRMATION_DEPTH + 1, {await raw(wallet, txid): 0})
    events = await wallet.events(*before, "orphaned", "confirmed")
    assert len({event["event_id"] for event in events}) == 1
    assert events[-1]["block_hash"] == await wallet.block_of(txid) != events[-2]["block_hash"]


async def test_several_deposits_are_taken_back_newest_first(wallet: Wallet) -> None:
    """A fork over several blocks orphans every deposit in them, in the reverse of the order in which they were told."""
    address = await wallet.create_account()
    for amount in (1, 2):
        await deposit(wallet, address, amount)
        await wallet.events(*["detected"] * amount)
    await reorganize(wallet, 2)
    events = await wallet.events("detected", "detected", "orphaned", "orphaned")
    assert [event["amount"] for event in events] == ["1", "2", "2", "1"]


async def test_a_fork_while_nobody_looks(wallet: Wallet) -> None:
    """A worker that was down during a fork finds it at its start."""
    address = await wallet.create_account()
    txid = await deposit(wallet, address)
    await wallet.events("detected")
    old = await wallet.block_of(txid)
    sync_of(wallet).process.kill()
    await reorganize(wallet, 1, {await raw(wallet, txid): 0})
    await wallet.mine(CONFIRMATION_DEPTH - 1)
    wallet.start(Role.SYNC)
    events = await wallet.events("detected", "orphaned", "confirmed")
    new = await wallet.block_of(txid)
    assert stories(events, "txid", "block_hash") == [(txid, old), (txid, old), (txid, new)]


async def test_a_shorter_chain_of_other_blocks_is_a_fork(wallet: Wallet) -> None:
    """A tip that went back is a fork as soon as a block of another hash stands there."""
    address = await wallet.create_account()
    await deposit(wallet, address)
    await wallet.events("detected")
    await wallet.mine(2)
    await sync_of(wallet).until(lambda said: said.get("lag") == 0 and said["tip"] == 3)
    confirmed = await wallet.events("detected", "confirmed")
    await wallet.rpc("anvil_rollback", 3)
    await wallet.pay(STRANGER, 3)
    await wallet.mine()
    events = await wallet.events("detected", "confirmed", "orphaned")
    assert events[2]["block_hash"] == confirmed[0]["block_hash"]


async def test_a_late_node_is_waited_for(wallet: Wallet) -> None:
    """A tip that went back along our own chain takes nothing back: the node is late, and the wallet waits."""
    address = await wallet.create_account()
    await deposit(wallet, address)
    await wallet.events("detected")
    await wallet.mine()
    await sync_of(wallet).until(lambda said: said["tip"] == said["block"] == 2)
    await wallet.rpc("anvil_rollback", 1)
    said = await sync_of(wallet).until(lambda said: said["tip"] == 1)
    assert (said["reason"], said["block"]) == ("Working", 2)
    await wallet.mine(CONFIRMATION_DEPTH)  # other blocks than the one above, or the same: anvil decides
    await wallet.events("detected", "confirmed")


async def test_a_fork_below_the_settled_blocks_halts(wallet: Wallet) -> None:
    """A fork deeper than `settleDepth` is for a person: the worker says so, keeps its lock and writes nothing more."""
    address = await wallet.create_account()
    await deposit(wallet, address)
    await wallet.mine(SETTLE_DEPTH + 2)
    sync = sync_of(wallet)
    settled = await sync.until(lambda said: said["block"] == SETTLE_DEPTH + 3)
    assert settled["settled_block"] > 1
    journal = await wallet.journal()
    await journal.read_to_end()
    ends = await journal.raw_ends()
    await reorganize(wallet, SETTLE_DEPTH + 2)
    said = await sync.until_reason("Halted")
    assert said["message"].startswith("ForkBelowWindow: ")
    assert said["leader"]
    await deposit(wallet, address)
    await wallet.mine(CONFIRMATION_DEPTH)
    again = wallet.start(Role.SYNC)
    sync.process.kill()
    said = await again.until_reason("Halted")
    assert said["message"].startswith("ForkBelowWindow: ")
    assert await journal.raw_ends() == ends
    assert await again.drain() == 0
