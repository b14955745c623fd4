"""Local workers live as long as their supervisor, and as well. Stand-in programs take the workers' place."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from wallet_cli.running import RunningWorker
from wallet_cli.supervisor import PORT_TRIES_MAX, RestartBackOff, RestartLimits, Supervisor, Worker, free_port
from wallet_core.errors import InvalidSetting
from wallet_core.settings import Role

TIMEOUT_SECONDS = 30.0
QUICK = RestartLimits(seconds_min=0.01, seconds_max=0.04)
# Each stand-in is given its role as the only argument.
DRAINING = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(sys.argv[1], "is up", flush=True)
signal.sigwait({signal.SIGTERM})
print(sys.argv[1], "drained", flush=True)
"""
DEAF = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), "is up", flush=True)
while True: signal.pause()
"""


class Desk:
    """Where a test sees what a supervisor says and lists, and waits for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.listed: list[tuple[RunningWorker, ...]] = []
        self._changed = asyncio.Event()

    def say(self, text: str) -> None:
        self.line("walletctl", text.encode())

    def line(self, name: str, text: bytes) -> None:
        self.lines.append(f"{name} | {text.decode()}")
        self._changed.set()

    def list_workers(self, workers: Sequence[RunningWorker]) -> None:
        self.listed.append(tuple(workers))

    def supervisor(
        self, program: str, *, restarts: RestartLimits = QUICK, stop_seconds_max: float = TIMEOUT_SECONDS
    ) -> Supervisor:
        command = (sys.executable, "-c", program)
        return Supervisor(command, self, self.list_workers, restarts=restarts, stop_seconds_max=stop_seconds_max)

    def containing(self, *texts: str) -> list[str]:
        return [line for line in self.lines if all(text in line for text in texts)]

    async def wait_for(self, *texts: str, times: int = 1) -> None:
        """Until each text stands in so many lines."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while any(len(self.containing(text)) < times for text in texts):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def _worker(role: Role = Role.SYNC, replica: int = 0, **environment: str) -> Worker:
    return Worker(role, replica, {"PATH": os.environ["PATH"], **environment})


@asynccontextmanager
async def _running(supervisor: Supervisor, *workers: Worker) -> AsyncIterator[None]:
    """Keeps them alive meanwhile; the test's last act is to stop them."""
    task = asyncio.create_task(supervisor.run_until_stop(workers))
    try:
        yield
    finally:
        if not supervisor.is_stopping:
            supervisor.stop()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await task


def test_pauses_grow_and_shrink_again() -> None:
    """Who dies young waits longer each time, up to a limit; a while of life forgives all."""
    back_off = RestartBackOff(RestartLimits(seconds_min=1, seconds_max=5, healthy_seconds=60))
    assert [back_off.pause_seconds(lived) for lived in (0, 1, 59, 0, 60, 0)] == [1, 2, 4, 5, 1, 2]


async def test_a_worker_that_ends_is_started_again(desk: Desk) -> None:
    """Whatever its exit code, 0 included, with growing pauses; each life has a line at its start and its end."""
    supervisor = desk.supervisor("")
    async with _running(supervisor, _worker()):
        await desk.wait_for("starting it again in 0.04 s", times=2)
        supervisor.stop()
    ends = desk.containing("sync-0 ended after ", "exit code 0")
    assert len(desk.containing("sync-0 started: pid ")) == len(ends)
    assert [line.rpartition(" in ")[2] for line in ends[:4]] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s"]


async def test_a_killed_worker_is_started_again_and_its_death_named(desk: Desk) -> None:
    """SIGKILL is seen as such; the list of workers names the new process, and no process in between."""
    supervisor = desk.supervisor(DRAINING)
    async with _running(supervisor, _worker()):
        await desk.wait_for("sync-0 | sync is up")
        first = desk.listed[-1][0]
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await desk.wait_for("killed by SIGKILL; starting it again in 0.01 s")
        await desk.wait_for("is up", times=2)
        assert [workers[0].pid for workers in desk.listed[:3]] == [None, first.pid, None]
        assert desk.listed[-1][0].pid not in {None, first.pid}


async def test_wrong_settings_end_everything(desk: Desk) -> None:
    """A worker that exits with 2 is not started again; the others end in good order, and its last line is the error."""
    program = f"""
import sys
if sys.argv[1] == "command":
    print("WALLET_CHAIN_ID: is missing", file=sys.stderr)
    sys.exit(2)
{DRAINING}"""
    supervisor = desk.supervisor(program)
    with pytest.raises(InvalidSetting, match=r"^command-0: WALLET_CHAIN_ID: is missing$"):
        await supervisor.run_until_stop([_worker(), _worker(Role.COMMAND)])
    assert len(desk.containing("command-0 started")) == 1
    assert desk.containing("command-0 | WALLET_CHAIN_ID: is missing")
    assert len(desk.containing("sync-0 started")) == len(desk.containing("sync-0 ended")) == 1
    assert [worker.pid for worker in desk.listed[-1]] == [None, None]


async def test_a_stop_lets_all_workers_end_in_good_order(desk: Desk) -> None:
    """Each gets SIGTERM and says its last words; none is started again."""
    supervisor = desk.supervisor(DRAINING)
    async with _running(supervisor, _worker(), _worker(replica=1), _worker(Role.COMMAND)):
        await desk.wait_for("sync-0 | sync is up", "sync-1 | sync is up", "command-0 | command is up")
        supervisor.stop()
    for name, role in (("sync-0", "sync"), ("sync-1", "sync"), ("command-0", "command")):
        assert desk.containing(f"{name} | {role} drained")
        assert len(desk.containing(f"{name} started")) == 1


async def test_a_second_stop_kills_at_once(desk: Desk) -> None:
    """Who does not want to wait for a worker that does not end need not."""
    supervisor = desk.supervisor(DEAF, stop_seconds_max=100 * TIMEOUT_SECONDS)
    async with _running(supervisor, _worker()):
        await desk.wait_for("is up")
        supervisor.stop()
        supervisor.stop()
    assert desk.containing("killed by SIGKILL")


async def test_a_worker_that_does_not_end_is_killed(desk: Desk) -> None:
    """A stop takes a bounded time."""
    supervisor = desk.supervisor(DEAF, stop_seconds_max=0.1)
    async with _running(supervisor, _worker()):
        await desk.wait_for("is up")
        supervisor.stop()
    assert desk.containing("killed by SIGKILL")


async def test_a_stop_ends_the_pause_before_a_restart(desk: Desk) -> None:
    """Nobody waits for the back-off of a worker that is not to come back."""
    supervisor = desk.supervisor("raise SystemExit(1)", restarts=RestartLimits(3600, 3600))
    async with _running(supervisor, _worker()):
        await desk.wait_for("starting it again in 3600 s")
        supervisor.stop()
    assert len(desk.containing("sync-0 started")) == 1


async def test_bootstrap_runs_until_it_succeeds(desk: Desk, tmp_path: Path) -> None:
    """Its failures are tried again; its success ends it."""
    program = f"""
import pathlib, sys
tries = pathlib.Path({str(tmp_path / "tries")!r})
tries.open("a").write("x")
sys.exit(0 if tries.read_text() == "xxx" else 1)
"""
    assert await desk.supervisor(program).run_to_success(_worker(Role.BOOTSTRAP))
    assert len(desk.containing("bootstrap-0 started")) == 3
    assert desk.lines[-1].endswith("exit code 0")


async def test_a_stopped_bootstrap_has_not_succeeded(desk: Desk) -> None:
    """After a stop nothing goes on, even if bootstrap ended well."""
    supervisor = desk.supervisor(DRAINING)
    success = asyncio.create_task(supervisor.run_to_success(_worker(Role.BOOTSTRAP)))
    await desk.wait_for("is up")
    supervisor.stop()
    assert not await success


async def test_bootstraps_wrong_settings_are_the_error(desk: Desk) -> None:
    """Exit code 2 is for wrong settings only: no other try can help."""
    program = "import sys; print('spec is wrong\\n'); sys.exit(2)"
    with pytest.raises(InvalidSetting, match=r"^bootstrap-0: spec is wrong$"):
        await desk.supervisor(program).run_to_success(_worker(Role.BOOTSTRAP))


async def test_a_last_line_without_its_end_is_passed_on(desk: Desk) -> None:
    """In one line, however many pieces it came in."""
    program = """
import sys
for piece in ("first\\n", "be", "gun, ", "never en", "ded"):
    sys.stdout.write(piece)
    sys.stdout.flush()
"""
    await desk.supervisor(program).run_to_success(_worker(Role.BOOTSTRAP))
    assert desk.containing("bootstrap-0 | ") == ["bootstrap-0 | first", "bootstrap-0 | begun, never ended"]


async def test_a_worker_gets_its_environment_and_a_port_of_its_own(desk: Desk) -> None:
    """It sees the variables that it was given and its address, which is listed, and no other."""
    program = """
import os, signal
print(os.environ["WALLET_HTTP_ADDRESS"], os.environ["MINE"], "HOME" in os.environ, flush=True)
signal.pause()
"""
    supervisor = desk.supervisor(program)
    async with _running(supervisor, _worker(MINE="a"), _worker(replica=1, MINE="b")):
        await desk.wait_for("sync-0 | ", "sync-1 | ")
        urls = [str(worker.url) for worker in desk.listed[-1]]
        for name, url, mine in (("sync-0", urls[0], "a"), ("sync-1", urls[1], "b")):
            assert desk.containing(f"{name} | ") == [f"{name} | {url.removeprefix('http://')} {mine} False"]
        assert urls[0] != urls[1]


@pytest.mark.parametrize("clients_from", [0, 1024, 1025, 13_000, 32_768])
def test_a_port_is_found_wherever_the_kernels_range_for_clients_begins(clients_from: int) -> None:
    """Below it if there is room, for what is free there stays free; else the kernel chooses."""
    port = free_port(clients_from)
    assert 1024 <= port <= 65_535
    if clients_from > 10_000:
        assert port < clients_from


def test_a_port_that_another_worker_was_given_is_not_given_again() -> None:
    """Between the look and the worker's own bind it would seem free."""
    taken = set(range(5_000, 5_000 + PORT_TRIES_MAX))
    assert free_port(5_000 + PORT_TRIES_MAX, set(range(1024, 5_000 + PORT_TRIES_MAX))) not in taken


async def test_a_terminals_signals_do_not_reach_a_worker(desk: Desk) -> None:
    """A worker leads its own session: Ctrl-C is for the supervisor, who then asks the workers to end."""
    program = "import os; print(os.getsid(0) == os.getpid() == os.getpgrp())"
    await desk.supervisor(program).run_to_success(_worker(Role.BOOTSTRAP))
    assert desk.containing("bootstrap-0 | ") == ["bootstrap-0 | True"]


def test_workers_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    """Even `kill -9` of the supervisor leaves no worker behind, not even one that is deaf to signals."""
    lifeline = tmp_path / "lifeline"  # the worker alone holds its other end: it reads as ended when the worker is gone
    os.mkfifo(lifeline)
    worker = f"import os; os.open({str(lifeline)!r}, os.O_WRONLY)\n{DEAF}"
    program = f"""
import asyncio, os, sys
from wallet_cli.supervisor import Supervisor, Worker
from wallet_cli.worker_logs import LogOutput
from wallet_core.settings import Role
async def main():
    supervisor = Supervisor((sys.executable, "-c", {worker!r}), LogOutput(1, coloured=False), lambda workers: None)
    await supervisor.run_until_stop([Worker(Role.SYNC, 0, dict(os.environ))])
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as supervisor:
        end = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)
        assert supervisor.stdout is not None
        assert any("is up" in line for line in supervisor.stdout)
        assert select.select([end], [], [], 0) == ([], [], [])
        supervisor.kill()
    assert select.select([end], [], [], TIMEOUT_SECONDS) == ([end], [], [])
    assert os.read(end, 1) == b""
    os.close(end)
