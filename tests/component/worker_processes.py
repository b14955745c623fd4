"""Whole wallets for the component tests: real worker processes on real services, and what a reader sees of them.

`running_wallet` gives a wallet of its own name, topic prefix and Redis keys, so that all tests share one Kafka and one
Redis. Its workers get their environment from a `WalletManager` resource, as in production, serve `/status` on a free
port of 127.0.0.1, and die with pytest. `read_committed` is the only way in which these tests read.

Waiting is for a condition, with a time-out that is the promised limit where one is promised, and ANSWER_SECONDS_MAX
elsewhere.
"""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from devstack.processes import Child, free_port
from devstack.services import EthereumNode, Kafka, Redis
from raw_batches import raw_batch
from wallet_core.keys import derive_account_keys
from wallet_core.messages import Topic
from wallet_core.resource import API_VERSION, KIND, parse_resource
from wallet_core.settings import Role, environment
from wallet_workers.adapters.kafka_clients import stop_consumer

ANSWER_SECONDS_MAX = 150.0
"""For what nothing else limits, on a machine that is busy with other things."""
DRAIN_SECONDS_MAX = 10.0
"""A worker has ended so long after SIGTERM."""
LOOK_SECONDS = 0.03
"""Between two looks at a condition."""
CONFIRMATION_DEPTH = 3
SETTLE_DEPTH = 6
PUBLIC_TOPICS = (Topic.COMMAND, Topic.ADDRESS_CREATED, Topic.TRANSACTION, Topic.ERRORS, Topic.ORDERS)
READ_TOPICS = (Topic.ADDRESS_CREATED, Topic.TRANSACTION, Topic.ERRORS, Topic.STATE_SYNC)
KEYS = derive_account_keys(bytes(range(64)), 0)

T = TypeVar("T")


class WorkerProcess(Protocol):
    """A process that runs one role."""

    log: Path

    @property
    def pid(self) -> int: ...
    @property
    def exit_code(self) -> int | None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def kill(self) -> None: ...


Launch = Callable[[Role, Mapping[str, str], Path], WorkerProcess]
"""Start a role's process with an environment and a log."""


class PythonProcess:
    """`python -m wallet_workers <role>`, as in production."""

    def __init__(self, role: Role, variables: Mapping[str, str], log: Path) -> None:
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith("WALLET_")}
        command = [sys.executable, "-m", "wallet_workers", role.value]
        self._child = Child.start(command, log, bound=True, env={**surroundings, **variables})
        self.log = log

    @property
    def pid(self) -> int:
        return self._child.process.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code

    def signal(self, number: signal.Signals) -> None:
        self._child.signal(number)

    def kill(self) -> None:
        self._child.kill()


class Worker:
    """One worker, and what it says of itself."""

    def __init__(self, role: Role, process: WorkerProcess, port: int) -> None:
        self.role = role
        self.process = process
        self._url = f"http://127.0.0.1:{port}"

    async def status(self) -> dict[str, Any]:
        """The document of `/status`; empty while nothing answers."""
        try:
            code, body = await self.get("/status")
        except OSError:
            return {}
        assert code == 200, body
        return dict(json.loads(body))

    async def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body."""
        return await asyncio.to_thread(_get, self._url + path)

    async def until(self, fits: Callable[[Mapping[str, Any]], bool], seconds: float = ANSWER_SECONDS_MAX) -> Any:
        """The status once it fits. A worker that ended never will."""

        async def look() -> dict[str, Any]:
            said = await self.status()
            assert said or self.process.exit_code is None, f"{self.role} ended: {self.last_lines()}"
            return said

        return await eventually(look, lambda said: bool(said) and fits(said), seconds, self.last_lines)

    async def until_reason(self, reason: str) -> dict[str, Any]:
        """The status once its reason is that one; `/ready` must say 200 beside it."""
        said: dict[str, Any] = await self.until(lambda status: status["reason"] == reason)
        assert (await self.get("/ready"))[0] == 200
        return said

    async def until_exit(self, seconds: float = ANSWER_SECONDS_MAX) -> int:
        """Its exit code, once it ended."""

        async def look() -> int | None:
            return self.process.exit_code

        code = await eventually(look, lambda code: code is not None, seconds, self.last_lines)
        assert code is not None
        return code

    async def drain(self) -> int:
        """SIGTERM; the exit code, which must come within the promised time."""
        self.process.signal(signal.SIGTERM)
        return await self.until_exit(DRAIN_SECONDS_MAX)

    def is_stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        lines = self.process.log.read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and f'"{event}"' in line]
        return [line for line in found if line["event"] == event]

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self.process.log.read_text(errors="replace").splitlines()[-12:])


def _get(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback URL composed here
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def eventually(
    look: Callable[[], Awaitable[T]],
    fits: Callable[[T], bool],
    seconds: float = ANSWER_SECONDS_MAX,
    more: Callable[[], str] = lambda: "",
) -> T:
    """What `look` gives once it fits; fails with the last look after the time-out."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        seen = await look()
        if fits(seen):
            return seen
        assert loop.time() < until, f"after {seconds} s still {seen!r}\n{more()}"
        await asyncio.sleep(LOOK_SECONDS)


@dataclass(frozen=True)
class Seen:
    """One committed record."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    def json(self) -> dict[str, Any]:
        assert self.value is not None
        return dict(json.loads(self.value))


class Journal:
    """Everything that a `read_committed` reader has seen on a wallet's topics, from their beginning."""

    def __init__(
        self,
        bootstrap_servers: str,
        prefix: str,
        partitions: int,
        *,
        topics: Sequence[Topic] = READ_TOPICS,
        isolation: str = "read_committed",
    ) -> None:
        self._prefix = prefix
        self._places = [
            TopicPartition(prefix + topic, number)
            for topic in topics
            for number in range(1 if topic is Topic.STATE_SYNC else partitions)
        ]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            isolation_level=isolation,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            retry_backoff_ms=50,
        )
        self._seen: dict[str, list[Seen]] = {topic: [] for topic in READ_TOPICS}

    async def start(self) -> None:
        await self._consumer.start()
        self._consumer.assign(self._places)
        await self._consumer.seek_to_beginning(*self._places)

    async def stop(self) -> None:
        await stop_consumer(
            self._consumer
        )  # it may have stood still, with its loop, for longer than a request may take

    def of(self, topic: Topic) -> list[Seen]:
        """What was read so far."""
        return self._seen[topic]

    async def until(
        self, topic: Topic, fits: Callable[[Sequence[Seen]], bool], seconds: float = ANSWER_SECONDS_MAX
    ) -> list[Seen]:
        """The topic's records once they fit."""

        async def look() -> list[Seen]:
            await self._read(LOOK_SECONDS)
            return self._seen[topic]

        return await eventually(look, fits, seconds)

    async def read_to_end(self) -> None:
        """Read what is committed now, to the last record."""
        ends = await self._consumer.end_offsets(self._places)

        async def look() -> bool:
            await self._read(0)
            return all([await self._consumer.position(place) >= ends[place] for place in self._places])

        await eventually(look, bool)

    async def raw_ends(self) -> dict[str, int]:
        """The end of each topic partition, as this journal's isolation level gives it."""
        ends = await self._consumer.end_offsets(self._places)
        return {f"{place.topic}-{place.partition}": end for place, end in ends.items()}

    async def _read(self, seconds: float) -> None:
        fetched = await self._consumer.getmany(timeout_ms=round(seconds * 1000))
        for place, records in fetched.items():
            self._seen[place.topic.removeprefix(self._prefix)] += [
                Seen(record.partition, record.offset, record.key, record.value, dict(record.headers))
                for record in records
            ]


class Wallet:
    """One wallet: its resource, its workers, and its topics as others see them."""

    def __init__(
        self, directory: Path, kafka: Kafka, resource: Mapping[str, Any], node: EthereumNode, launch: Launch
    ) -> None:
        self.directory = directory
        self.resource = resource
        self.node = node
        self.workers: list[Worker] = []
        self.prefix: str = resource["spec"]["kafka"]["topicPrefix"]
        self.secrets = directory / "secrets"
        self.kafka = kafka
        self._launch = launch
        self._journal: Journal | None = None
        self._producer: AIOKafkaProducer | None = None

    # --- workers ------------------------------------------------------------------------------------------------------

    def environment(self, role: Role, port: int, generation: int = 1) -> dict[str, str]:
        """A role's environment, from the resource."""
        return {
            **environment(parse_resource(self.resource), role, generation),
            "WALLET_SECRETS_DIR": str(self.secrets),
            "WALLET_HTTP_ADDRESS": f"127.0.0.1:{port}",
        }

    def start(self, role: Role, *, generation: int = 1, launch: Launch | None = None) -> Worker:
        """Start a worker of the role."""
        port = free_port()
        log = self.directory / f"{role.value}-{len(self.workers)}.log"
        process = (launch or self._launch)(role, self.environment(role, port, generation), log)
        worker = Worker(role, process, port)
        self.workers.append(worker)
        return worker

    async def bootstrap(self) -> Worker:
        """Run bootstrap, which must succeed."""
        worker = self.start(Role.BOOTSTRAP)
        assert await worker.until_exit() == 0, worker.last_lines()
        return worker

    async def start_all(self) -> tuple[Worker, Worker]:
        """Bootstrap, then a command and a sync worker that work."""
        await self.bootstrap()
        command, sync = self.start(Role.COMMAND), self.start(Role.SYNC)
        await command.until(lambda said: bool(said.get("partitions")))
        await sync.until(lambda said: said["reason"] == "Working" and bool(said.get("leader")))
        return command, sync

    def write_xpub(self) -> None:
        path = self.secrets / "accounts" / "xpub"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(KEYS.xpub + "\n")

    # --- Kafka --------------------------------------------------------------------------------------------------------

    async def journal(self) -> Journal:
        """What a `read_committed` reader sees; the topics must exist."""
        if self._journal is None:
            self._journal = Journal(self.kafka.bootstrap_servers, self.prefix, self.partitions)
            await self._journal.start()
        return self._journal

    @property
    def partitions(self) -> int:
        return int(self.resource["spec"]["kafka"]["partitions"])

    async def send(
        self, value: bytes | None, key: bytes | None = b"caller", headers: Sequence[tuple[str | bytes, bytes]] = ()
    ) -> int:
        """Send one message to `command`; returns its offset. A header's name given in bytes is sent as it is."""
        if self._producer is None:
            self._producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap_servers, retry_backoff_ms=50)
            await self._producer.start()
        topic = self.prefix + Topic.COMMAND
        if any(isinstance(name, bytes) for name, _ in headers):
            batch = raw_batch(self._producer.create_batch(), [(key, value, headers)])
            place = await (await self._producer.send_batch(batch, topic, partition=0))
        else:
            place = await self._producer.send_and_wait(topic, value, key, headers=list(headers))
        return int(place.offset)

    async def create_account(self, meta: Mapping[str, Any] | None = None) -> str:
        """The address that a new `create_account` command is answered with."""
        command = {"id": uuid.uuid4().hex, "type": "create_account", "meta": dict(meta or {})}
        await self.send(json.dumps(command).encode())
        journal = await self.journal()
        replies = await journal.until(
            Topic.ADDRESS_CREATED, lambda seen: any(each.json()["id"] == command["id"] for each in seen)
        )
        return next(str(each.json()["address"]) for each in replies if each.json()["id"] == command["id"])

    async def events(self, *statuses: str, address: str | None = None) -> list[dict[str, Any]]:
        """The `transaction` events (of one address) by their sequence, once there are so many with these statuses."""

        def chosen(seen: Sequence[Seen]) -> list[dict[str, Any]]:
            events = [each.json() for each in seen if address is None or each.json()["to"] == address]
            return sorted(events, key=lambda event: int(event["sequence"]))

        def told(seen: Sequence[Seen]) -> list[str]:
            return [event["status"] for event in chosen(seen)]

        journal = await self.journal()
        await journal.until(Topic.TRANSACTION, lambda seen: len(told(seen)) >= len(statuses))
        assert told(journal.of(Topic.TRANSACTION)) == list(statuses)
        return chosen(journal.of(Topic.TRANSACTION))

    async def delete_topic(self, topic: Topic) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers, request_timeout_ms=60_000)
        await admin.start()
        try:
            await admin.delete_topics([self.prefix + topic])
        finally:
            await admin.close()

    # --- the chain ----------------------------------------------------------------------------------------------------

    async def rpc(self, method: str, *params: Any) -> Any:
        return await asyncio.to_thread(self.node.rpc, method, *params)

    async def pay(self, address: str | None, amount_wei: int = 10**18, **more: str) -> str:
        """Send ETH from a rich account; returns the transaction's hash. Mined as the node mines."""
        sender = (await self.rpc("eth_accounts"))[0]
        transaction = {"from": sender, "value": hex(amount_wei), "gas": hex(100_000), **more}
        return str(await self.rpc("eth_sendTransaction", transaction | ({"to": address} if address else {})))

    async def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            await self.rpc("evm_mine")

    async def block_of(self, txid: str) -> str:
        """Hash of the block that holds a transaction."""
        return str((await self.rpc("eth_getTransactionByHash", txid))["blockHash"])

    async def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        if self._journal is not None:
            await self._journal.stop()
        if self._producer is not None:
            await self._producer.stop()
        if self.kafka.alive():
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers, request_timeout_ms=60_000)
            await admin.start()
            try:
                await admin.delete_topics([self.prefix + topic for topic in (*PUBLIC_TOPICS, Topic.STATE_SYNC)])
            finally:
                await admin.close()


@asynccontextmanager
async def running_wallet(
    directory: Path,
    kafka: Kafka,
    redis: Redis,
    node: EthereumNode,
    *,
    launch: Launch = PythonProcess,
    changes: Mapping[str, Any] | None = None,
) -> AsyncIterator[Wallet]:
    """A wallet with its account key in place and no worker yet; at the end nothing of it is left running.

    `changes` are laid over the resource, part by part.
    """
    name = f"w{uuid.uuid4().hex[:10]}"
    base = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": "tests"},
        "spec": {
            "chain": {
                "id": node.chain_id,
                "rpc": [{"url": node.url}],
                "confirmation": {"depth": CONFIRMATION_DEPTH},
                "settleDepth": SETTLE_DEPTH,
                "staleAfterSeconds": 0,
            },
            "kafka": {
                "bootstrapServers": kafka.bootstrap_servers,
                "topicPrefix": f"{name}.",
                "partitions": 3,
                "replicationFactor": 1,
            },
            "redis": {"url": redis.url},
            "accounts": {
                "fingerprint": KEYS.fingerprint,
                "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
            },
            "assets": [{"type": "native", "symbol": "ETH"}],
            "tuning": {"lockTtlSeconds": 2, "transactionTimeoutSeconds": 5, "pollSeconds": 0.1},
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    wallet = Wallet(directory, kafka, _laid_over(base, changes or {}), node, launch)
    wallet.write_xpub()
    try:
        yield wallet
    finally:
        await wallet.close()


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _laid_over(base[key], value) if isinstance(value, Mapping) and key in base else value
    return merged
