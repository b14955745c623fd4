"""The world goes away and comes back: workers live on, say what is missing, and go on by themselves.

Meanwhile `/status` names the reason and `/ready` stays 200 (`until_reason` checks both); afterwards a reader sees
everything that happened, once. What must not go on by itself halts, and writes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis as redis_client

from component.worker_processes import (
    CONFIRMATION_DEPTH,
    KEYS,
    Journal,
    Wallet,
    eventually,
    running_wallet,
)
from devstack.processes import free_port
from devstack.services import Anvil, Ganache, Kafka, Redis
from wallet_core.keys import derive_account_keys
from wallet_core.messages import Topic
from wallet_core.settings import Role

WRONG_CHAIN_ID = 4242


async def told_once(wallet: Wallet, address: str, txids: list[str]) -> None:
    """Exactly these deposits to the address were confirmed, in this order, and nothing was taken back."""
    journal = await wallet.journal()
    await journal.until(
        Topic.TRANSACTION, lambda seen: sum(each.json()["status"] == "confirmed" for each in seen) >= len(txids)
    )
    await journal.read_to_end()
    events = [each.json() for each in journal.of(Topic.TRANSACTION) if each.json()["to"] == address]
    assert sorted(event["sequence"] for event in events) == list(range(1, len(events) + 1))
    assert [event["txid"] for event in events if event["status"] == "confirmed"] == txids
    assert len({(event["txid"], event["status"]) for event in events}) == len(events)
    assert {event["status"] for event in events} <= {"detected", "confirmed"}


# --- Redis ------------------------------------------------------------------------------------------------------------


async def test_redis_wiped(
    tmp_path: Path, kafka: Kafka, make_redis: Callable[..., Redis], make_anvil: Callable[..., Anvil]
) -> None:
    """Without its lock a leader leads again at once; nothing that it needs was in Redis."""
    redis = make_redis()
    async with running_wallet(tmp_path, kafka, redis, make_anvil()) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        txids = [await wallet.pay(address, 1)]
        await wallet.events("detected")
        with redis_client.Redis.from_url(redis.url) as client:
            assert client.flushall()
        txids.append(await wallet.pay(address, 2))
        await wallet.mine(CONFIRMATION_DEPTH)
        await told_once(wallet, address, txids)

        async def leaderships() -> int:
            return len(sync.logged("leading"))

        await eventually(leaderships, lambda count: count > 1)
        txids.append(await wallet.pay(address, 3))
        await wallet.mine(CONFIRMATION_DEPTH)
        await told_once(wallet, address, txids)


@pytest.mark.parametrize("silently", [False, True], ids=["stopped", "stalled"])
async def test_redis_away(
    silently: bool, tmp_path: Path, kafka: Kafka, make_redis: Callable[..., Redis], make_anvil: Callable[..., Anvil]
) -> None:
    """Without Redis nobody leads and workers say so; deposits made meanwhile are told once it is back."""
    redis = make_redis()
    async with running_wallet(tmp_path, kafka, redis, make_anvil()) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        txids = [await wallet.pay(address, 1)]
        await wallet.events("detected")
        await asyncio.to_thread(redis.pause if silently else redis.stop)
        await sync.until(lambda said: not said["leader"])
        await sync.until_reason("RedisUnreachable")
        txids.append(await wallet.pay(address, 2))
        await wallet.mine(CONFIRMATION_DEPTH)
        assert await wallet.create_account({"redis": "is not needed for this"})
        await asyncio.to_thread(redis.resume if silently else redis.start)
        await told_once(wallet, address, txids)
        await sync.until(lambda said: said["reason"] == "Working")


# --- Kafka ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stop", "kill", "pause"])
async def test_kafka_away(
    way: str, tmp_path: Path, make_kafka: Callable[..., Kafka], redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """While Kafka is away sync waits, and command ends to be started again; both go on when it is back."""
    kafka = make_kafka()
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil()) as wallet:
        command, sync = await wallet.start_all()
        address = await wallet.create_account()
        txids = [await wallet.pay(address, 1)]
        await wallet.events("detected")
        await asyncio.to_thread({"stop": kafka.stop, "kill": kafka.kill, "pause": kafka.pause}[way])
        txids.append(await wallet.pay(address, 2))
        await wallet.mine(CONFIRMATION_DEPTH)
        await sync.until_reason("KafkaUnreachable")
        assert await command.until_exit() == 1
        again = wallet.start(Role.COMMAND)
        await again.until_reason("KafkaUnreachable")
        await asyncio.to_thread(kafka.resume if way == "pause" else kafka.start)
        await told_once(wallet, address, txids)
        assert await wallet.create_account()
        for worker in (again, sync):
            await worker.until(lambda said: said["reason"] == "Working")


async def test_sigterm_drains_beside_a_kafka_that_hangs(
    tmp_path: Path, make_kafka: Callable[..., Kafka], redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """A stop takes no longer than promised though nothing that is open can be ended; nothing is lost or said twice."""
    kafka = make_kafka()
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil()) as wallet:
        workers = await wallet.start_all()
        address = await wallet.create_account()
        txid = await wallet.pay(address, 1)
        await wallet.events("detected")
        await asyncio.to_thread(kafka.pause)
        await wallet.mine(CONFIRMATION_DEPTH)
        exit_codes = await asyncio.gather(*(worker.drain() for worker in workers))
        assert set(exit_codes) <= {0, 1}  # 1: the outage ended the command worker before the stop did
        await asyncio.to_thread(kafka.resume)
        for role in (Role.COMMAND, Role.SYNC):
            wallet.start(role)
        await told_once(wallet, address, [txid])
        assert await wallet.create_account()


async def test_bootstrap_waits_for_the_world(
    tmp_path: Path, make_kafka: Callable[..., Kafka], redis_server: Redis, anvil: Anvil
) -> None:
    """Bootstrap beside a Kafka that is not there yet waits, says why, and ends well once it is there."""
    kafka = make_kafka()
    await asyncio.to_thread(kafka.stop)
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        bootstrap = wallet.start(Role.BOOTSTRAP)
        await bootstrap.until_reason("KafkaUnreachable")
        await asyncio.to_thread(kafka.start)
        assert await bootstrap.until_exit() == 0


# --- the node ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stop", "kill", "pause"])
async def test_the_node_away(
    way: str, tmp_path: Path, kafka: Kafka, redis_server: Redis, make_ganache: Callable[..., Ganache]
) -> None:
    """A node that dies or stalls is waited for; commands are answered meanwhile."""
    node = make_ganache()
    async with running_wallet(tmp_path, kafka, redis_server, node) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        txids = [await wallet.pay(address, 1)]
        await wallet.events("detected")
        await asyncio.to_thread({"stop": node.stop, "kill": node.kill, "pause": node.pause}[way])
        said = await sync.until_reason("RpcUnreachable")
        assert said["endpoints"][0]["usable"] is False
        assert await wallet.create_account({"the node": "is not needed for this"})
        await asyncio.to_thread(node.resume if way == "pause" else node.start)
        txids.append(await wallet.pay(address, 2))
        await wallet.mine(CONFIRMATION_DEPTH)
        await told_once(wallet, address, txids)
        await sync.until(lambda said: said["reason"] == "Working")


async def test_a_node_of_another_chain(
    tmp_path: Path,
    kafka: Kafka,
    redis_server: Redis,
    make_ganache: Callable[..., Ganache],
    make_anvil: Callable[..., Anvil],
) -> None:
    """Behind the same URL another chain: never used, nothing written; the right one again: the wallet goes on."""
    node = make_ganache()
    async with running_wallet(tmp_path, kafka, redis_server, node) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        txids = [await wallet.pay(address, 1)]
        await wallet.events("detected")
        journal = await wallet.journal()
        ends = await journal.raw_ends()
        await asyncio.to_thread(node.stop)
        wrong = await asyncio.to_thread(make_anvil, port=node.port, chain_id=WRONG_CHAIN_ID)
        wallet.node = wrong
        await sync.until_reason("WrongChain")
        await wallet.pay(address, 7)
        await wallet.mine(CONFIRMATION_DEPTH)
        fresh = wallet.start(Role.SYNC)
        sync.process.kill()
        said = await fresh.until_reason("WrongChain")
        assert f"chain {WRONG_CHAIN_ID}" in said["message"]
        assert await journal.raw_ends() == ends
        await asyncio.to_thread(wrong.stop)
        await asyncio.to_thread(node.start)
        wallet.node = node
        txids.append(await wallet.pay(address, 2))
        await wallet.mine(CONFIRMATION_DEPTH)
        await told_once(wallet, address, txids)


async def test_a_second_endpoint_takes_over(
    tmp_path: Path,
    kafka: Kafka,
    redis_server: Redis,
    make_ganache: Callable[..., Ganache],
    make_anvil: Callable[..., Anvil],
) -> None:
    """With an endpoint that is dead and one of another chain before it, the right one is used."""
    node, wrong = make_ganache(), make_anvil(chain_id=WRONG_CHAIN_ID)
    rpc = [{"url": f"http://127.0.0.1:{free_port()}"}, {"url": wrong.url}, {"url": node.url}]
    async with running_wallet(tmp_path, kafka, redis_server, node, changes={"spec": {"chain": {"rpc": rpc}}}) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        txid = await wallet.pay(address)
        await wallet.mine(CONFIRMATION_DEPTH)
        await told_once(wallet, address, [txid])
        assert [endpoint["usable"] for endpoint in (await sync.status())["endpoints"]] == [False, False, True]


# --- files ------------------------------------------------------------------------------------------------------------


async def test_the_xpub_file_is_missing(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """A missing key file is no missing setting: the worker waits, names it, and answers once it is there."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        await wallet.bootstrap()
        (wallet.secrets / "accounts" / "xpub").unlink()
        command = wallet.start(Role.COMMAND)
        said = await command.until_reason("SecretMissing")
        assert said["message"] == "SecretMissing accounts/xpub"
        assert not said.get("partitions")
        wallet.write_xpub()
        assert await wallet.create_account()
        assert (await command.status())["reason"] == "Working"


async def test_another_wallets_xpub_halts(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """A key that the fingerprint does not name answers nothing: its addresses could never be swept."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        await wallet.bootstrap()
        other = derive_account_keys(bytes(64), 0)
        (wallet.secrets / "accounts" / "xpub").write_text(other.xpub)
        command = wallet.start(Role.COMMAND)
        said = await command.until_reason("Halted")
        assert said["message"].startswith("KeyMismatch: ")
        assert KEYS.fingerprint in said["message"]
        assert other.xpub not in said["message"]
        assert await command.drain() == 0


async def test_the_node_url_file_is_missing(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """A URL that is a secret is waited for likewise, and is shown nowhere."""
    source = {"urlFrom": {"secretKeyRef": {"name": "provider", "key": "url"}}}
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        await wallet.bootstrap()
        wallet.resource["spec"]["chain"]["rpc"] = [source]
        sync = wallet.start(Role.SYNC)
        said = await sync.until_reason("SecretMissing")
        assert said["message"] == "SecretMissing provider/url"
        path = wallet.secrets / "provider" / "url"
        path.parent.mkdir()
        path.write_text(f"{anvil.url}?key=that-nobody-may-see\n")
        said = await sync.until(lambda said: bool(said.get("leader")) and said["reason"] == "Working")
        assert "nobody" not in str(said)
        assert "nobody" not in sync.process.log.read_text()


# --- the topics -------------------------------------------------------------------------------------------------------


async def test_the_state_topic_is_lost(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """Without its checkpoint a wallet that has spoken halts, writes nothing, and bootstrap refuses to begin anew."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        _, sync = await wallet.start_all()
        address = await wallet.create_account()
        await wallet.pay(address)
        await wallet.events("detected")
        async with journal_of(wallet, Topic.TRANSACTION) as journal:
            ends = await journal.raw_ends()
            await wallet.delete_topic(Topic.STATE_SYNC)
            await wallet.pay(address)
            said = await sync.until_reason("Halted")
            assert said["message"].startswith("CheckpointLost: ")
            assert said["leader"]

            bootstrap = wallet.start(Role.BOOTSTRAP)
            assert await bootstrap.until_exit() == 1
            (problem,) = bootstrap.logged("bootstrap_problem")
            assert problem["problem"].startswith("CheckpointLost: ")

            sync.process.kill()  # another one finds the topic that bootstrap made, empty
            again = wallet.start(Role.SYNC)
            await wallet.mine(CONFIRMATION_DEPTH)
            said = await again.until_reason("Halted")
            assert said["message"].startswith("CheckpointLost: ")
            assert await journal.raw_ends() == ends
        async with journal_of(wallet, Topic.STATE_SYNC) as state:
            assert set((await state.raw_ends()).values()) == {0}


async def test_topics_of_another_wallet(tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil) -> None:
    """A wallet that points at topics which another one owns changes nothing in them and says whose they are."""
    async with running_wallet(tmp_path / "owner", kafka, redis_server, anvil) as owner:
        await owner.bootstrap()
        journal = await owner.journal()
        ends = await journal.raw_ends()
        changes = {"spec": {"kafka": {"topicPrefix": owner.prefix}}}
        async with running_wallet(tmp_path / "stranger", kafka, redis_server, anvil, changes=changes) as stranger:
            bootstrap = stranger.start(Role.BOOTSTRAP)
            assert await bootstrap.until_exit() == 1
            (problem,) = bootstrap.logged("bootstrap_problem")
            assert problem["problem"].startswith("TopicsOfAnotherWallet: ")
            sync = stranger.start(Role.SYNC)
            said = await sync.until_reason("Halted")
            assert said["message"].startswith("TopicsOfAnotherWallet: ")
            assert owner.resource["metadata"]["name"] in said["message"]
            assert await journal.raw_ends() == ends


async def test_older_settings_do_not_lead(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """A worker whose settings are older than the checkpoint's gives the lock back and writes nothing."""
    async with running_wallet(tmp_path, kafka, redis_server, make_anvil()) as wallet:
        await wallet.bootstrap()
        wallet.start(Role.COMMAND)
        address = await wallet.create_account()
        newer = wallet.start(Role.SYNC, generation=2)
        await newer.until(leads)
        assert await newer.drain() == 0
        older = wallet.start(Role.SYNC, generation=1)
        await older.until(lambda said: bool(said.get("superseded")))
        txid = await wallet.pay(address)
        again = wallet.start(Role.SYNC, generation=2)  # beside the older one, which keeps trying
        await told_once_detected(wallet, txid)
        assert leads(await again.status())
        assert not leads(await older.status())
        journal = await wallet.journal()
        await journal.read_to_end()
        generations = {each.json()["generation"] for each in journal.of(Topic.STATE_SYNC) if each.key == b"checkpoint"}
        assert generations == {0, 2}


def leads(said: object) -> bool:
    return isinstance(said, dict) and bool(said.get("leader"))


async def told_once_detected(wallet: Wallet, txid: str) -> None:
    (event,) = await wallet.events("detected")
    assert event["txid"] == txid


@asynccontextmanager
async def journal_of(wallet: Wallet, *topics: Topic) -> AsyncIterator[Journal]:
    journal = Journal(wallet.kafka.bootstrap_servers, wallet.prefix, wallet.partitions, topics=topics)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.stop()
