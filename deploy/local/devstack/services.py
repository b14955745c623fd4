"""Redis, Kafka, Ganache and anvil as local processes: one class each, all with the same life.

    start    refuses a taken port, starts, waits until it *answers a request*, proves that it is the one that answers
    stop     SIGTERM, a bounded wait, SIGKILL         kill     SIGKILL, as a power cut would
    pause, resume   SIGSTOP, SIGCONT: alive, holding its port, silent
    restart  stop and start, with its data; so does `start` after `kill`

Without `records` a service dies with this process (tests); with a directory there it is detached and leaves its record
(the demo), by which `adopt` finds it again. All bind 127.0.0.1 only. Data and log stay in `data`.
"""

import json
import signal
import socket
import struct
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from devstack.errors import DevstackError, DiedAtStart, NotAnswering
from devstack.processes import POLL_SECONDS, Child, ProcessId, Record, free_port, prove_listening, require_free
from devstack.tools import Tools

START_SECONDS_MAX = 60.0
PROBE_SECONDS_MAX = 5.0
KAFKA_CLUSTER_ID = "d2FsbGV0LW1hbmFnZXItbA"
"""Any 16 bytes in base64; the same in every stack, so that data formatted once stays readable."""
KAFKA_JVM_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""The first compiler only: up in 1.6 s instead of 2.7 s."""
ANVIL_CHAIN_ID = 31337
GANACHE_CHAIN_ID = 1337
PORT_REMEDY = "stop it or use another port"


@dataclass(kw_only=True)
class Service(ABC):
    """A server on 127.0.0.1 whose process we own."""

    tools: Tools
    data: Path
    """Its directory: data, configuration, log. Made when missing."""
    port: int = field(default_factory=free_port)
    records: Path | None = None
    """Where a detached service leaves its record. None: it dies with this process."""
    port_remedy: str = PORT_REMEDY
    """What a person can do when the port is taken."""
    child: Child | None = field(default=None, init=False)
    name: ClassVar[str]

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The program and its arguments. May write configuration into `data`."""

    @abstractmethod
    def probe(self) -> bool:
        """Whether a request is answered as it should. Raises OSError or ValueError while there is no answer."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port it listens on."""
        return (self.port,)

    @property
    def log(self) -> Path:
        """What it printed, over all its lives."""
        return self.data / f"{self.name}.log"

    @property
    def process(self) -> ProcessId:
        """The running process."""
        return self._child().process

    def alive(self) -> bool:
        """Whether its process runs, answering or not."""
        return self.child is not None and self.child.alive()

    def answers(self) -> bool:
        """Whether it answers a request now."""
        with suppress(OSError, ValueError):
            return self.probe()
        return False

    def start(self) -> None:
        """Start it and return when it answers. Raises `PortTaken`, `DiedAtStart`, `NotAnswering`."""
        if self.alive():
            raise DevstackError(f"{self.name} runs already (pid {self.process.pid}): stop it first")
        for port in self.ports:
            require_free(self.name, port, self.port_remedy)
        self.data.mkdir(parents=True, exist_ok=True)
        child = Child.start(self.command(), self.log, bound=self.records is None, cwd=self.data)
        self.child = child
        try:
            if self.records is not None:
                # Before it answers: a command interrupted while it waits must not lose sight of it.
                Record(self.name, child.process, self.ports).write(self.records)
            self._await_answer(child, START_SECONDS_MAX, "see why and start again")
            self._prove(child)
        except BaseException:
            self.kill()
            raise

    def adopt(self, record: Record) -> None:
        """Take over the detached process of `record`, if it works. Raises as `start` does."""
        child = Child(record.process, self.log)
        self._await_answer(child, PROBE_SECONDS_MAX, "run 'make down' and start again")
        self._prove(child)
        self.child = child

    def stop(self) -> None:
        """End it in good order; nothing happens if it does not run."""
        if self.child is not None:
            self.child.stop()
        self._forget()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.child is not None:
            self.child.kill()
        self._forget()

    def restart(self) -> None:
        """Stop and start, with its data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it lives and holds its port, but is silent."""
        self._child().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._child().signal(signal.SIGCONT)

    def _child(self) -> Child:
        if self.child is None:
            raise DevstackError(f"{self.name} was not started: call start() first")
        return self.child

    def _forget(self) -> None:
        self.child = None
        if self.records is not None:
            Record.path(self.records, self.name).unlink(missing_ok=True)

    def _await_answer(self, child: Child, timeout_seconds: float, remedy: str) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not self.answers():
            if not child.alive():
                raise DiedAtStart(self.name, child.exit_code, self.log, child.last_words())
            if time.monotonic() > deadline:
                raise NotAnswering(self.name, child.process.pid, timeout_seconds, self.log, remedy)
            time.sleep(POLL_SECONDS)

    def _prove(self, child: Child) -> None:
        for port in self.ports:
            prove_listening(self.name, child.process, port, self.port_remedy)


@dataclass(kw_only=True)
class Redis(Service):
    """A Redis that appends every write to a file, so that its data outlives a kill."""

    name: ClassVar[str] = "redis"

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str | Path]:
        """All settings on the command line; `protected-mode` only matters beyond loopback."""
        return [
            self.tools.redis_server, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.data,
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no",
        ]  # fmt: skip

    def probe(self) -> bool:
        """PING; it says LOADING while it reads its file."""
        return self.ask("PING") == "+PONG"

    def ask(self, *words: str) -> str:
        """The first line of the reply to a command, as the protocol writes it (`+OK`, `:1`, `$3`)."""
        with socket.create_connection(("127.0.0.1", self.port), PROBE_SECONDS_MAX) as connection:
            parts = [f"*{len(words)}", *(part for word in words for part in (f"${len(word.encode())}", word)), ""]
            connection.sendall("\r\n".join(parts).encode())
            return connection.makefile("rb").readline().decode().strip()


@dataclass(kw_only=True)
class Kafka(Service):
    """A Kafka of one node, broker and controller in one (KRaft)."""

    name: ClassVar[str] = "kafka"
    controller_port: int = field(default_factory=free_port)

    @property
    def bootstrap_servers(self) -> str:
        """For clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def ports(self) -> tuple[int, ...]:
        """The broker's and the controller's."""
        return (self.port, self.controller_port)

    def settings(self) -> dict[str, str]:
        """The server's properties, as small and as quick as one node can be."""
        broker, controller = f"PLAINTEXT://{self.bootstrap_servers}", f"CONTROLLER://127.0.0.1:{self.controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{broker},{controller}",
            "advertised.listeners": broker,
            "log.dirs": str(self.data / "topics"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            # An abandoned transaction holds back its readers until the broker looks: by default every 10 s.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            # After a kill the broker may register again only when its old session is over: by default 9 s.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
        }

    def command(self) -> Sequence[str | Path]:
        """Formats the directory the first time."""
        properties = self.data / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self.settings().items()))
        if not (self.data / "topics" / "meta.properties").exists():
            self._format(properties)
        return [*self._java(), "kafka.Kafka", properties]

    def probe(self) -> bool:
        """A metadata request names the broker: it answers requests before that, but has no leader for anything."""
        return _kafka_brokers(self.port) > 0

    def _java(self) -> list[str | Path]:
        logging = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        return [self.tools.java, *KAFKA_JVM_OPTIONS, *logging, "-cp", f"{self.tools.kafka_jars}/*"]

    def _format(self, properties: Path) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", KAFKA_CLUSTER_ID, "-c", properties]
        with self.log.open("ab") as output:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
        if done.returncode != 0:
            words = Child(ProcessId(0, 0), self.log).last_words()
            raise DiedAtStart("kafka's format tool", done.returncode, self.log, words)


def _kafka_brokers(port: int) -> int:
    """How many brokers a metadata request (API 3, version 5) for no topic names."""
    client = b"devstack"
    body = struct.pack(">hhih", 3, 5, 1, len(client)) + client + struct.pack(">i?", 0, False)
    with socket.create_connection(("127.0.0.1", port), PROBE_SECONDS_MAX) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        # Length, correlation id and throttle time, then the array of brokers with its length in front.
        head = connection.makefile("rb").read(16)
    if len(head) < 16:  # noqa: PLR2004 - the four 32-bit numbers above
        raise ConnectionResetError("the broker hung up")
    return int(struct.unpack(">iiii", head)[3])


@dataclass(kw_only=True)
class EthereumNode(Service):
    """A development chain behind JSON-RPC, over HTTP and WebSocket on one port."""

    chain_id: int = GANACHE_CHAIN_ID
    block_time_seconds: int | None = None
    """None: a block for every transaction, at once."""
    mnemonic: str | None = None
    """Of the accounts that hold ETH. None: the program's well-known one."""

    @property
    def url(self) -> str:
        """JSON-RPC over HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """JSON-RPC over WebSocket."""
        return f"ws://127.0.0.1:{self.port}"

    def rpc(self, method: str, *params: Any) -> Any:
        """The result of one call. Raises OSError when there is no answer, `DevstackError` when it is an error."""
        call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, call, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS_MAX) as response:
            reply = json.load(response)
        if "error" in reply:
            raise DevstackError(f"{self.name} refused {method}: {reply['error'].get('message')}")
        return reply["result"]

    def probe(self) -> bool:
        """It serves the chain that was asked for."""
        return int(self.rpc("eth_chainId"), 16) == self.chain_id


@dataclass(kw_only=True)
class Ganache(EthereumNode):
    """Ganache; its chain outlives a kill."""

    name: ClassVar[str] = "ganache"

    def command(self) -> Sequence[str | Path]:
        """The chain lies in `data`/chain."""
        wallet = ["--wallet.mnemonic", self.mnemonic] if self.mnemonic else ["--wallet.deterministic"]
        mining = [] if self.block_time_seconds is None else ["--miner.blockTime", str(self.block_time_seconds)]
        return [
            self.tools.node, self.tools.ganache, "--server.host", "127.0.0.1", "--server.port", str(self.port),
            "--database.dbPath", self.data / "chain", "--chain.chainId", str(self.chain_id), *wallet, *mining,
        ]  # fmt: skip


@dataclass(kw_only=True)
class Anvil(EthereumNode):
    """anvil, which can fork; its chain lives in memory only."""

    name: ClassVar[str] = "anvil"
    chain_id: int = ANVIL_CHAIN_ID
    mining: bool = True
    """False: blocks only by `evm_mine`."""

    def command(self) -> Sequence[str | Path]:
        """The binary itself, found by `tools`."""
        if self.tools.anvil is None:
            raise DevstackError(
                "anvil is not among the tools: PYTHONPATH=deploy/local python3 -m devstack install --tests"
            )
        mining = ["--no-mining"] if not self.mining else []
        if self.block_time_seconds is not None:
            mining = ["--block-time", str(self.block_time_seconds)]
        wallet = ["--mnemonic", self.mnemonic] if self.mnemonic else []
        return [
            self.tools.anvil, "--host", "127.0.0.1", "--port", str(self.port), "--chain-id", str(self.chain_id),
            "--quiet", *mining, *wallet,
        ]  # fmt: skip
