"""The local services are ours, end with us, and keep what they were told. `deploy/local/devstack`."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from devstack import stack
from devstack.errors import DevstackError, DiedAtStart, NotAnswering, PortTaken, ToolMissing
from devstack.processes import Child, ProcessId, Record, free_port, owner_of_port, prove_listening, wait_until
from devstack.services import Anvil, Ganache, Kafka, Redis
from devstack.tools import Machine, Tools, find, install

TIMEOUT_SECONDS = 30.0
LISTENER = "import socket,sys,time\ns=socket.create_server(('127.0.0.1',int(sys.argv[1])))\ntime.sleep(600)"
SLEEPER = "import time; time.sleep(600)"

MakeKafka = Callable[..., Kafka]
MakeRedis = Callable[..., Redis]
MakeGanache = Callable[..., Ganache]
MakeAnvil = Callable[..., Anvil]


@contextmanager
def started(tmp_path: Path, *arguments: str) -> Iterator[Child]:
    child = Child.start([sys.executable, "-c", *arguments], tmp_path / "child.log", bound=True)
    try:
        yield child
    finally:
        child.kill()


@contextmanager
def stranger(tmp_path: Path, port: int) -> Iterator[Child]:
    with started(tmp_path, LISTENER, str(port)) as child:
        assert wait_until(lambda: owner_of_port(port) is not None, TIMEOUT_SECONDS), child.last_words()
        yield child


def paused(process: ProcessId) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_port_taken_before_the_start_names_its_holder(tools: Tools, tmp_path: Path) -> None:
    """A service whose port a stranger holds does not start, and the message says who holds it."""
    port = free_port()
    with stranger(tmp_path, port) as child:
        redis = Redis(tools=tools, data=tmp_path / "redis", port=port)
        with pytest.raises(PortTaken, match=rf"redis: port {port} .* pid {child.process.pid} \(.*python"):
            redis.start()
        assert not redis.alive()
        assert child.alive()


def test_an_answer_from_a_stranger_is_no_proof(tmp_path: Path) -> None:
    """A port that a stranger took while our process started is told from one that our process holds."""
    port = free_port()
    with stranger(tmp_path / "theirs", port) as theirs, started(tmp_path / "ours", SLEEPER) as ours:
        prove_listening("theirs", theirs.process, port, "")
        with pytest.raises(PortTaken, match=f"pid {theirs.process.pid}"):
            prove_listening("ours", ours.process, port, "")


def test_nobody_on_the_port_is_no_proof(tmp_path: Path) -> None:
    """A process that does not listen is not proved by the absence of others."""
    with started(tmp_path, SLEEPER) as child, pytest.raises(PortTaken, match="nobody"):
        prove_listening("ours", child.process, free_port(), "")


def test_a_port_of_a_descendant_is_ours(tmp_path: Path) -> None:
    """A server may leave the listening to a process that it started."""
    port = free_port()
    program = "import subprocess,sys; subprocess.run([sys.executable,'-c',*sys.argv[1:]])"
    with started(tmp_path, program, LISTENER, str(port)) as child:
        assert wait_until(lambda: owner_of_port(port) is not None, TIMEOUT_SECONDS), child.last_words()
        assert owner_of_port(port) != {child.process.pid}
        prove_listening("ours", child.process, port, "")


def test_a_service_that_dies_at_start_says_its_last_words(tools: Tools, tmp_path: Path) -> None:
    """What a service printed before it died is in the message."""
    data = tmp_path / "redis"
    (data / "appendonlydir").mkdir(parents=True)
    (data / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(DiedAtStart, match=r"redis died at start \(exit code 1\): .*[Mm]anifest"):
        Redis(tools=tools, data=data).start()


def test_bound_services_die_with_their_parent(tools: Tools, tmp_path: Path) -> None:
    """A test process that is killed with SIGKILL leaves no service behind."""
    program = (
        "import sys,time\nfrom pathlib import Path\n"
        "from devstack.services import Redis\nfrom devstack.tools import Tools\n"
        f"redis = Redis(tools=Tools(*[Path({str(tools.redis_server)!r})] * 5), data=Path(sys.argv[1]))\n"
        "redis.start()\nprint(redis.process.pid, flush=True)\ntime.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        redis = ProcessId.of(int(parent.stdout.readline()))
        assert redis is not None
        assert redis.alive()
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not redis.alive(), TIMEOUT_SECONDS)


def test_bound_services_outlive_the_thread_that_started_them(tools: Tools, tmp_path: Path) -> None:
    """The kernel ties a bound process to a thread; one started beside an event loop must not die with the loop."""
    redis = Redis(tools=tools, data=tmp_path)
    thread = threading.Thread(target=redis.start)
    thread.start()
    thread.join()
    try:
        assert redis.ask("SET", "key", "value") == "+OK"
        assert redis.alive()
    finally:
        redis.stop()


def test_detached_processes_outlive_their_parent_and_are_found_again(tools: Tools, tmp_path: Path) -> None:
    """A detached service is adopted by its record, and stopped by it."""
    records = tmp_path / "run"
    redis = Redis(tools=tools, data=tmp_path / "redis", records=records)
    redis.start()
    try:
        record = Record.read(records, "redis")
        assert record == Record("redis", redis.process, (redis.port,))
        assert os.getsid(redis.process.pid) == redis.process.pid
        again = Redis(tools=tools, data=tmp_path / "redis", port=redis.port, records=records)
        again.adopt(record)
        assert again.process == redis.process
    finally:
        redis.stop()
    assert Record.read(records, "redis") is None


def test_down_spares_a_process_that_only_has_the_pid_of_a_record(tmp_path: Path) -> None:
    """A pid that was recycled is left alone, and its record goes."""
    directory = stack.records_directory(tmp_path)
    said: list[str] = []
    with started(tmp_path, SLEEPER) as stranger:
        former = ProcessId(stranger.process.pid, stranger.process.started_ticks - 1)
        Record("redis", former).write(directory)
        (directory / "kafka.json").write_text('{"pid": ')
        stack.down(tmp_path, said.append)
        assert stranger.alive()
    assert any("was gone already" in line for line in said)
    assert list(directory.iterdir()) == []


def test_down_stops_the_users_of_the_services_first_and_all_that_they_started(tmp_path: Path) -> None:
    """`walletctl` ends before Redis is asked to, and what it started in groups of their own ends too."""
    directory = stack.records_directory(tmp_path)
    program = (
        "import subprocess,sys,time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], process_group=0)\n"
        "print(p.pid, flush=True)\ntime.sleep(600)"
    )
    said: list[str] = []
    with started(tmp_path / "walletctl", program) as walletctl, started(tmp_path / "redis", SLEEPER) as redis:
        assert wait_until(lambda: walletctl.last_words() != "", TIMEOUT_SECONDS)
        worker = ProcessId.of(int(walletctl.last_words()))
        assert worker is not None
        Record("walletctl", walletctl.process).write(directory)
        Record("redis", redis.process).write(directory)
        stack.down(tmp_path, said.append)
        assert not walletctl.alive()
        assert not worker.alive()
        assert not redis.alive()
    assert [line.split()[1] for line in said] == ["walletctl", "redis"]


def test_up_uses_what_runs_and_says_when_it_is_silent(tools: Tools, tmp_path: Path) -> None:
    """The second `up` starts nothing; ports that changed are refused; `down` ends all; `clean` leaves no directory."""
    said: list[str] = []
    ports = stack.Ports(free_port(), free_port(), free_port(), free_port())
    try:
        first = stack.up(tmp_path, tools, ports, said.append)
        second = stack.up(tmp_path, tools, ports, said.append)
        assert second.kafka.process == first.kafka.process
        assert sum("runs already" in line for line in said) == 3
        with pytest.raises(DevstackError, match="make down"):
            stack.up(tmp_path, tools, replace(ports, redis=free_port()), said.append)
        first.redis.pause()
        with pytest.raises(NotAnswering, match=r"redis \(pid \d+\) runs but did not answer .* run 'make down'"):
            stack.up(tmp_path, tools, ports, said.append)
        first.redis.kill()
        Record("redis", second.redis.process, (ports.redis,)).write(stack.records_directory(tmp_path))
        third = stack.up(tmp_path, tools, ports, said.append)
        assert third.redis.process != second.redis.process
        assert any("has died since" in line for line in said)
    finally:
        stack.clean(tmp_path, said.append)
    assert not any(service.alive() for service in (third.redis, third.kafka, third.ganache, first.kafka, first.ganache))
    assert not tmp_path.exists()


def test_redis_keeps_its_data_across_a_kill(make_redis: MakeRedis) -> None:
    """What was written before SIGKILL is there after the start."""
    redis = make_redis()
    assert redis.ask("SET", "key", "value") == "+OK"
    redis.kill()
    assert not redis.answers()
    redis.start()
    assert redis.ask("EXISTS", "key") == ":1"


def test_ganache_keeps_its_chain_across_a_kill(make_ganache: MakeGanache) -> None:
    """Blocks and balances from before SIGKILL are there after the start, under the same chain id."""
    ganache = make_ganache()
    sender, receiver = ganache.rpc("eth_accounts")[0], "0x" + "12" * 20
    ganache.rpc("eth_sendTransaction", {"from": sender, "to": receiver, "value": "0x5"})
    tip = ganache.rpc("eth_getBlockByNumber", "latest", False)["hash"]
    ganache.kill()
    ganache.start()
    assert ganache.rpc("eth_getBlockByNumber", "latest", False)["hash"] == tip
    assert int(ganache.rpc("eth_getBalance", receiver, "latest"), 16) == 5


async def test_kafka_keeps_its_records_across_a_kill(make_kafka: MakeKafka) -> None:
    """A record that was acknowledged before SIGKILL is read after the start."""
    kafka = make_kafka()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id="t")
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait("kept", b"value", partition=0)
    await producer.stop()
    kafka.kill()
    kafka.start()
    consumer = AIOKafkaConsumer(
        "kept",
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        record = await consumer.getone()
        assert record.value == b"value"
    finally:
        await consumer.stop()


def test_a_paused_service_is_silent_until_it_is_resumed(make_anvil: MakeAnvil) -> None:
    """SIGSTOP leaves the port open and the request unanswered; SIGCONT answers it."""
    anvil = make_anvil()
    anvil.pause()
    assert wait_until(lambda: paused(anvil.process), TIMEOUT_SECONDS)
    with socket.create_connection(("127.0.0.1", anvil.port), TIMEOUT_SECONDS):
        anvil.resume()
        assert wait_until(anvil.answers, TIMEOUT_SECONDS)


def test_a_paused_service_can_be_stopped(make_redis: MakeRedis) -> None:
    """Stopping does not wait for a process that cannot hear it."""
    redis = make_redis()
    process = redis.process
    redis.pause()
    redis.stop()
    assert not process.alive()


def test_services_of_a_session_answer_to_their_chains(
    ganache: Ganache, anvil: Anvil, redis_server: Redis, kafka: Kafka
) -> None:
    """The shared fixtures are up, each on ports of its own and on loopback only."""
    assert int(ganache.rpc("eth_chainId"), 16) == 1337
    assert int(anvil.rpc("eth_chainId"), 16) == 31337
    assert redis_server.answers()
    assert kafka.answers()
    ports = [*ganache.ports, *anvil.ports, *redis_server.ports, *kafka.ports]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize(
    ("may_install", "words"),
    [
        (False, "Redis, Java 17 or newer, Maven are missing and only root can install packages: apt-get install "),
        (True, "Redis, Java 17 or newer, Maven are missing and there is no apt-get here: apt-get install "),
    ],
)
def test_what_cannot_be_installed_is_named_with_the_command(tmp_path: Path, may_install: bool, words: str) -> None:
    """On a machine without rights, or without Debian's installer, one line says what to install."""
    bare = Machine(search_path=str(tmp_path), java_homes=tmp_path, may_install_packages=may_install)
    with pytest.raises(ToolMissing) as caught:
        install(tmp_path / "local", lambda _line: None, tests=True, machine=bare)
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("redis-tools default-jre-headless maven")
    assert "\n" not in str(caught.value)


def test_a_java_that_is_too_old_is_missing(tmp_path: Path, tools: Tools) -> None:
    """Only the version counts, not that a program called java exists."""
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    (tmp_path / "redis-server").symlink_to(tools.redis_server)
    with pytest.raises(ToolMissing, match="Java 17 or newer is missing: apt-get install default-jre-headless"):
        find(tmp_path, tests=False, machine=Machine(search_path=str(tmp_path), java_homes=tmp_path))


def test_an_interrupted_install_is_not_taken_for_a_done_one(tmp_path: Path) -> None:
    """A step that fails leaves no directory of the pinned name; the message names it, its reason and its log."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {
        "redis-server": "exit 0",
        "java": "echo 'openjdk version \"17.0.2\"' >&2",
        "mvn": "echo '[ERROR] Could not transfer artifact'; exit 1",
        "node": "echo v24.0.0",
        "npm": "echo 'npm error code ENOTFOUND'; exit 1",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    machine = Machine(search_path=f"{programs}:/bin:/usr/bin", java_homes=tmp_path)
    local = tmp_path / "local"
    with pytest.raises(
        ToolMissing, match=r"Kafka could not be installed \(\[ERROR\] Could not transfer artifact; see .*kafka.log\)"
    ):
        install(local, lambda _line: None, tests=True, machine=machine)
    assert [path.name for path in (local / "tools").iterdir()] == ["lock"]


def test_free_ports_are_not_those_the_kernel_lends_to_clients() -> None:
    """A service that is killed finds its port free again."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < lowest for _ in range(20))


@pytest.mark.parametrize("clients_from", [0, 1024, 1025, 13_000])
def test_a_port_is_found_wherever_the_kernels_range_begins(clients_from: int) -> None:
    """An administrator may have lent all ports to clients; then the kernel chooses."""
    assert 1024 <= free_port(clients_from) <= 65_535
