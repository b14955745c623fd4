"""Orders on real services: what was missed is found, what is gone is taken back, and the wallet goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import evm
from component.sent_orders import order, outcome, watch
from component.worker_processes import (
    CONFIRMATION_DEPTH,
    SETTLE_DEPTH,
    Seen,
    Wallet,
    Worker,
    running_wallet,
)
from devstack.services import Anvil, Kafka, Redis
from wallet_core.addresses import checksum_address, parse_address
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_core.settings import Role

STRANGER = "0x" + "5e" * 20
HALT_ANSWER_SECONDS_MAX = 30.0
"""Half of the minute after which a halted worker would look again by itself."""


async def said(wallet: Wallet) -> list[tuple[str, str]]:
    """Status and transaction of every event so far, by sequence."""
    journal = await wallet.journal()
    await journal.read_to_end()
    events = sorted((each.json() for each in journal.of(Topic.TRANSACTION)), key=lambda event: event["sequence"])
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    return [(event["status"], event["txid"]) for event in events]


async def head_served(wallet: Wallet, sync: Worker) -> None:
    """Until the leader has appended the chain's newest block."""
    number = int(await wallet.rpc("eth_blockNumber"), 16)
    await sync.until(lambda status: status.get("block") == number)


async def confirmed(wallet: Wallet, *txids: str) -> list[str]:
    """The transactions of all `confirmed` events by sequence, once all of these are among them."""
    journal = await wallet.journal()

    def told(seen: Sequence[Seen]) -> list[str]:
        return [each.json()["txid"] for each in seen if each.json()["status"] == "confirmed"]

    await journal.until(Topic.TRANSACTION, lambda seen: set(txids) <= set(told(seen)))
    return [txid for status, txid in await said(wallet) if status == "confirmed"]


async def test_an_address_watched_later_gets_what_it_received_before(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """By a rescan, `confirmed` only; what it receives from then on is told by the head. Deposits flow meanwhile."""
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil(mining=False)) as wallet:
        _, sync = await wallet.start_all()
        early = await wallet.pay(STRANGER, 5)
        await wallet.mine(3 * SETTLE_DEPTH)
        await head_served(wallet, sync)
        reply = await watch(wallet, STRANGER)
        assert (reply["path"], reply["fingerprint"], reply["address"].lower()) == (None, None, STRANGER)
        scanned = await order(wallet, type="rescan", from_block=0)
        await outcome(wallet, scanned, lambda found: found.published == 1)
        late = []
        for _ in range(2 * SETTLE_DEPTH):
            late.append(await wallet.pay(STRANGER, 7))
            await wallet.mine()
        await wallet.mine(CONFIRMATION_DEPTH)
        done = await outcome(wallet, scanned)
        assert (done.status, done.published) == (OrderStatus.DONE, 1)
        told = await confirmed(wallet, early, *late)
        assert Counter(told) == Counter(dict.fromkeys([early, *late], 1))
        detected = Counter(txid for status, txid in await said(wallet) if status == "detected")
        assert early not in detected
        assert set(detected.values()) <= {1}


async def test_an_asset_added_later_gets_what_was_sent_before(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """From the next block on by the head, before that by a rescan; the coin's own deposits are not told again."""
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil(mining=False)) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        created = await wallet.pay(None, 0, data="0x" + evm.init_code(evm.TOKEN).hex(), gas=hex(500_000))
        coin = await wallet.pay(address, 3)
        await wallet.mine()
        contract = (await wallet.rpc("eth_getTransactionReceipt", created))["contractAddress"]
        data = evm.call_data(parse_address(address), 1_500_000)
        early = await wallet.pay(contract, 0, data=data)
        await wallet.mine(2 * SETTLE_DEPTH)
        await head_served(wallet, sync)
        assert await sync.drain() == 0
        token = {"type": "erc20", "symbol": "TOK", "contract": checksum_address(parse_address(contract)), "decimals": 6}
        wallet.resource["spec"]["assets"].append(token)
        await head_served(wallet, wallet.start(Role.SYNC, generation=2))
        scanned = await order(wallet, type="rescan", from_block=0)
        await outcome(wallet, scanned, lambda found: found.published == 1)
        late = await wallet.pay(contract, 0, data=data)
        await wallet.mine(2 * SETTLE_DEPTH)
        assert (await outcome(wallet, scanned)).published == 1
        assert await confirmed(wallet, late) == [coin, early, late]


async def test_a_fork_below_the_window_halts_and_a_rewind_goes_on(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """While halted only outcomes are written. A target that may be above the fork is refused, with one that will do.

    The rewind takes back what is gone, and nothing is said twice.
    """
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil(mining=False)) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        stays = await wallet.pay(address, 1)
        await wallet.mine()
        common = int(await wallet.rpc("eth_blockNumber"), 16)
        await wallet.mine(SETTLE_DEPTH)
        fork_at = int(await wallet.rpc("eth_blockNumber"), 16)
        dies = await wallet.pay(address, 2)
        await wallet.mine(3 * SETTLE_DEPTH)
        await confirmed(wallet, stays, dies)
        depth = int(await wallet.rpc("eth_blockNumber"), 16) - fork_at
        await wallet.rpc("anvil_reorg", depth, [])
        await wallet.mine(2)
        await sync.until_reason("Halted")
        journal = await wallet.journal()
        ends = await journal.raw_ends()
        unsure = await order(wallet, type="rewind", to=fork_at)
        assert f"above block {common}, " in (await outcome(wallet, unsure)).message
        rewound = await order(wallet, type="rewind", to=common)
        async with asyncio.timeout(HALT_ANSWER_SECONDS_MAX):
            done = await outcome(wallet, rewound)
        assert (done.status, done.published) == (OrderStatus.DONE, 1)
        assert await journal.raw_ends() != ends
        await sync.until_reason("Working")
        again = await wallet.pay(address, 3)
        await wallet.mine(CONFIRMATION_DEPTH)
        assert await confirmed(wallet, again) == [stays, dies, again]
        assert [txid for status, txid in await said(wallet) if status == "orphaned"] == [dies]


async def test_a_lost_checkpoint_is_made_anew_by_an_order_only(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """Bootstrap fails with CheckpointLost until a person names a block; then the story goes on in order."""
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil(mining=False)) as wallet:
        command, sync = await wallet.start_all()
        address = await wallet.create_account()
        first = await wallet.pay(address, 1)
        await wallet.mine()
        block = int(await wallet.rpc("eth_blockNumber"), 16)
        await wallet.mine(2 * SETTLE_DEPTH)
        await confirmed(wallet, first)
        assert set(await asyncio.gather(command.drain(), sync.drain())) == {0}
        await wallet.delete_topic(Topic.STATE_SYNC)
        missed = await wallet.pay(address, 2)
        await wallet.mine(SETTLE_DEPTH)
        lost = wallet.start(Role.BOOTSTRAP)
        assert await lost.until_exit() == 1
        assert "CheckpointLost" in lost.last_lines()
        rewound = await order(wallet, type="rewind", to=block - 1, after_loss=True)
        await wallet.bootstrap()
        wallet.start(Role.SYNC)
        assert (await outcome(wallet, rewound)).status is OrderStatus.DONE
        assert await confirmed(wallet, missed) == [first, missed]


async def test_a_leader_killed_in_the_middle_of_a_rescan(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """The next one goes on where it was: every deposit once."""
    blocks = 400
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil(mining=False)) as wallet:
        _, sync = await wallet.start_all()
        paid = []
        for number in range(blocks):
            if number % 20 == 0:
                paid.append(await wallet.pay(STRANGER, number + 1))
            await wallet.mine()
        await wallet.mine(SETTLE_DEPTH)
        await head_served(wallet, sync)
        await watch(wallet, STRANGER)
        scanned = await order(wallet, type="rescan", from_block=0)
        middle = await outcome(wallet, scanned, lambda found: found.next_block > 1)
        sync.process.kill()
        wallet.start(Role.SYNC)
        await outcome(wallet, scanned, lambda found: found.next_block > max(middle.next_block, blocks))
        await wallet.mine(SETTLE_DEPTH)
        done = await outcome(wallet, scanned)
        assert (done.status, done.published) == (OrderStatus.DONE, len(paid))
        assert await said(wallet) == [("confirmed", txid) for txid in paid]
