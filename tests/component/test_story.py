"""The main job, end to end: real worker processes on real Kafka, Redis and chains."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from component.worker_processes import ANSWER_SECONDS_MAX, CONFIRMATION_DEPTH, KEYS, Wallet, running_wallet
from devstack.services import Anvil, EthereumNode, Ganache, Kafka, Redis
from wallet_core.accounts import AccountKey
from wallet_core.addresses import checksum_address
from wallet_core.messages import AddressCreated, Topic, TransactionEvent
from wallet_core.settings import Role

REVERTING_CODE = "0x60006000fd"
"""PUSH1 0 PUSH1 0 REVERT."""
POLL_SECONDS_LONG = 60
"""The longest that the settings allow."""
WAKING_SECONDS_MAX = 20.0
"""Far below the longest poll: who answers within it was woken."""


@pytest.fixture(params=["ganache", "anvil"])
def mining_node(
    request: pytest.FixtureRequest, make_ganache: Callable[..., Ganache], make_anvil: Callable[..., Anvil]
) -> EthereumNode:
    """A chain with a block every second."""
    make = make_ganache if request.param == "ganache" else make_anvil
    return make(block_time_seconds=1)


async def test_a_deposit_is_detected_and_confirmed_once(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, mining_node: EthereumNode
) -> None:
    """An account's address comes back on Kafka; a payment to it is told as detected, then confirmed, each once."""
    rpc = {"url": mining_node.url, "wsUrl": mining_node.ws_url}
    async with running_wallet(
        tmp_path, kafka, redis_server, mining_node, changes={"spec": {"chain": {"rpc": [rpc]}}}
    ) as wallet:
        await wallet.start_all()
        address = await wallet.create_account({"customer": "42"})
        txid = await wallet.pay(address, 1_500_000_000_000_000_000)
        detected, confirmed = [
            TransactionEvent.model_validate(event) for event in await wallet.events("detected", "confirmed")
        ]
        assert detected.txid == confirmed.txid == txid
        assert detected.event_id == confirmed.event_id
        assert (detected.value, detected.amount, detected.to) == ("1.5", "1500000000000000000", address)
        assert detected.block_hash == confirmed.block_hash == await wallet.block_of(txid)
        assert confirmed.sequence == detected.sequence + 1
        assert confirmed.confirmations == CONFIRMATION_DEPTH

        journal = await wallet.journal()
        reply = journal.of(Topic.ADDRESS_CREATED)[0]
        created = AddressCreated.model_validate_json(reply.value or b"")
        key = AccountKey.from_xpub(KEYS.xpub, KEYS.fingerprint)
        assert created.address == checksum_address(key.address(created.path or "")) == address
        assert reply.json()["customer"] == "42"
        told = journal.of(Topic.TRANSACTION)
        assert [each.key for each in told] == [address.lower().encode()] * 2
        assert [each.headers["ce_id"].decode() for each in told] == [
            f"{event.event_id}.{event.sequence}" for event in (detected, confirmed)
        ]
        next_txid = await wallet.pay(address, 1)  # a reader who waits on sees the next deposit only
        later = await wallet.events("detected", "confirmed", "detected", "confirmed")
        assert [event["txid"] for event in later] == [txid, txid, next_txid, next_txid]


async def test_what_is_no_deposit_gives_no_event(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """A failed transfer, a contract creation, a transfer of nothing and one to a stranger are not told."""
    node = make_anvil(mining=False)
    async with running_wallet(tmp_path, kafka, redis_server, node) as wallet:
        await wallet.start_all()
        refusing, address = await wallet.create_account(), await wallet.create_account()
        await wallet.rpc("anvil_setCode", refusing, REVERTING_CODE)
        failed = await wallet.pay(refusing)
        created = await wallet.pay(None, data="0x00")
        await wallet.pay(address, 0)
        await wallet.pay("0x" + "11" * 20)
        counted = await wallet.pay(address, 7)
        await wallet.mine(CONFIRMATION_DEPTH)
        assert (await wallet.rpc("eth_getTransactionReceipt", failed))["status"] == "0x0"
        assert (await wallet.rpc("eth_getTransactionReceipt", created))["contractAddress"]
        events = await wallet.events("confirmed")
        assert [(event["txid"], event["amount"]) for event in events] == [(counted, "7")]


async def test_the_gas_account_makes_no_deposits(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """A transfer from the wallet's own gas address is funding, not a deposit."""
    node = make_anvil(mining=False)
    gas_address = checksum_address(KEYS.gas_address)
    async with running_wallet(
        tmp_path, kafka, redis_server, node, changes={"spec": {"sweep": {"gasAddress": gas_address}}}
    ) as wallet:
        await wallet.start_all()
        address = await wallet.create_account()
        await wallet.rpc("anvil_setBalance", gas_address, hex(10**20))
        await wallet.rpc("anvil_impersonateAccount", gas_address)
        await wallet.pay(address, 5, **{"from": gas_address})
        counted = await wallet.pay(address, 7)
        await wallet.mine()
        assert [event["txid"] for event in await wallet.events("detected")] == [counted]


async def test_a_second_bootstrap_changes_nothing(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil
) -> None:
    """Bootstrap beside running workers writes nothing and takes nothing from them."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        await wallet.pay(address)
        await wallet.events("detected")
        journal = await wallet.journal()
        ends = await journal.raw_ends()
        again = await wallet.bootstrap()
        assert again.logged("checkpoint_exists")
        assert await journal.raw_ends() == ends
        await wallet.mine(CONFIRMATION_DEPTH)
        await wallet.events("detected", "confirmed")
        assert (await sync.status())["leader"]
        assert not sync.logged("begun_again")  # it was never fenced


async def test_sigterm_drains(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """Workers told to stop finish in time with exit code 0, and who comes after goes on where they stopped."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        command, sync = await wallet.start_all()
        address = await wallet.create_account()
        await wallet.pay(address, 1)
        assert set(await asyncio.gather(command.drain(), sync.drain())) == {0}
        await wallet.send(json.dumps({"id": "while nobody listens", "type": "create_account"}).encode())
        await wallet.pay(address, 2)
        await wallet.mine(CONFIRMATION_DEPTH)
        wallet.start(Role.COMMAND)
        wallet.start(Role.SYNC)
        journal = await wallet.journal()
        replies = await journal.until(Topic.ADDRESS_CREATED, lambda seen: len(seen) > 1)
        assert [reply.json()["id"] for reply in replies][-1] == "while nobody listens"
        told = await journal.until(
            Topic.TRANSACTION, lambda seen: sum(each.json()["status"] == "confirmed" for each in seen) > 1
        )
        confirmed = [each.json()["amount"] for each in told if each.json()["status"] == "confirmed"]
        assert sorted(confirmed) == ["1", "2"]
        assert sorted(each.json()["sequence"] for each in told) == list(range(1, len(told) + 1))


async def test_a_standby_takes_over_at_once_from_a_leader_that_stops(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil
) -> None:
    """A leader that is told to stop gives up its lock: a ready standby leads before the lock's life is over."""
    tuning = {"lockTtlSeconds": 300, "transactionTimeoutSeconds": 5, "pollSeconds": 0.1}
    async with running_wallet(tmp_path, kafka, redis_server, anvil, changes={"spec": {"tuning": tuning}}) as wallet:
        _, leader = await wallet.start_all()
        standby = wallet.start(Role.SYNC)
        await standby.until(lambda said: said["reason"] == "Working")
        assert (await standby.get("/ready"))[0] == 200
        assert await leader.drain() == 0
        await standby.until(lambda said: bool(said.get("leader")), ANSWER_SECONDS_MAX)


async def test_new_heads_wake_the_leader(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """Where the node announces new heads, a deposit is told long before the next poll."""
    rpc = {"url": anvil.url, "wsUrl": anvil.ws_url}
    tuning = {"lockTtlSeconds": 2, "transactionTimeoutSeconds": 5, "pollSeconds": POLL_SECONDS_LONG}
    async with running_wallet(
        tmp_path, kafka, redis_server, anvil, changes={"spec": {"chain": {"rpc": [rpc]}, "tuning": tuning}}
    ) as wallet:
        _, sync = await wallet.start_all()
        await sync.until(lambda said: bool(said["endpoints"][0]["announces_heads"]))
        address = await wallet.create_account()
        async with asyncio.timeout(WAKING_SECONDS_MAX):
            await wallet.pay(address)
            await wallet.events("detected")
            await wallet.mine(CONFIRMATION_DEPTH - 1)
            await wallet.events("detected", "confirmed")


async def test_a_worker_shows_its_work(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """`/live`, `/ready`, `/status` and `/metrics` answer on one port and agree with what was done."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        command, sync = await wallet.start_all()
        await told_everywhere(wallet)
        for worker in (command, sync):
            assert (await worker.get("/live"))[0] == 200
            assert (await worker.get("/ready"))[0] == 200
        status = await sync.status()
        assert (status["sequence"], status["lag"], status["addresses"]) == (1, 0, 1)
        assert 'wallet_events_total{status="detected"} 1.0' in (await sync.get("/metrics"))[1]
        assert 'outcome="created"} 1.0' in (await command.get("/metrics"))[1]


async def told_everywhere(wallet: Wallet) -> None:
    address = await wallet.create_account()
    await wallet.pay(address)
    await wallet.events("detected")
