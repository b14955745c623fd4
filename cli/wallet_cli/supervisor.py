"""Keeps workers alive as local processes, as Kubernetes would keep their pods.

    start → exit → pause → start …     pauses grow from exit to exit, and shrink again after a while of life
    exit code 2                        wrong settings: no restart can help, everything ends
    stop                               SIGTERM to all, a bounded wait, SIGKILL; a second stop kills at once

Each worker leads a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, and is bound to the
supervisor (see `bound`), so that none outlives it. Each start takes a free port of its own; a worker that finds it
taken after all ends with exit code 1, and gets another.

Nothing here is cancelled: a stop is an event that every wait looks at, so that a worker is always seen to its end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wallet_cli.running import RunningWorker
from wallet_cli.worker_logs import Lines
from wallet_core.errors import InvalidSetting
from wallet_core.settings import Role

STOP_SECONDS_MAX = 15.0
"""How long a worker may take after SIGTERM; it drains within 10 s."""
RESTART_SECONDS_MIN = 0.5
RESTART_SECONDS_MAX = 30.0
HEALTHY_SECONDS = 60.0
"""Who lived so long is restarted with the shortest pause again."""
LOGS_SECONDS_MAX = 2.0
"""How long the output of a worker that is gone may take to end."""
EXIT_WRONG_SETTINGS = 2
_READ_SIZE_MAX = 64 * 1024
_PORTS_BELOW_CLIENTS = 12_000
_PORT_MIN = 1024
"""Ports below belong to root."""
PORT_TRIES_MAX = 50
"""Among the ports below the clients'; where none of them was free, the kernel chooses."""
_KERNEL_TRIES_MAX = 10
_CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_BOUND = (sys.executable, "-I", "-S", str(Path(__file__).with_name("bound.py")))


class Output(Protocol):
    """Where workers' lines go; see LogOutput."""

    def say(self, text: str) -> None:
        """A line of walletctl's own."""

    def line(self, name: str, text: bytes) -> None:
        """A worker's line. Never blocks."""


@dataclass(frozen=True)
class Worker:
    """A worker to be kept alive."""

    role: Role
    replica: int
    """From 0."""
    environment: Mapping[str, str]
    """All of it but `WALLET_HTTP_ADDRESS`, which each start chooses."""

    @property
    def name(self) -> str:
        """`<role>-<replica>`."""
        return f"{self.role}-{self.replica}"


@dataclass(frozen=True)
class RestartLimits:
    """How soon a worker that ended is started again."""

    seconds_min: float = RESTART_SECONDS_MIN
    seconds_max: float = RESTART_SECONDS_MAX
    healthy_seconds: float = HEALTHY_SECONDS


class RestartBackOff:
    """The pause before each restart of one worker: twice as long after each short life, within limits."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._next_seconds = limits.seconds_min

    def pause_seconds(self, lived_seconds: float) -> float:
        """The pause after a life of that length."""
        if lived_seconds >= self._limits.healthy_seconds:
            self._next_seconds = self._limits.seconds_min
        pause = self._next_seconds
        self._next_seconds = min(2 * pause, self._limits.seconds_max)
        return pause


class Supervisor:
    """See the module."""

    def __init__(
        self,
        command: Sequence[str],
        output: Output,
        list_workers: Callable[[Sequence[RunningWorker]], None],
        *,
        restarts: RestartLimits | None = None,
        stop_seconds_max: float = STOP_SECONDS_MAX,
    ) -> None:
        self._command = command  # the role follows it
        self._output = output
        self._list_workers = list_workers
        self._restarts = restarts or RestartLimits()
        self._stop_seconds_max = stop_seconds_max
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._workers: dict[str, RunningWorker] = {}
        self._ports: set[int] = set()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked for the end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End all workers; asked again, kill them."""
        if self._stopping.is_set():
            self._killing.set()
        self._stopping.set()

    async def pause(self, seconds: float) -> None:
        """Wait that long, or until the stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def run_to_success(self, worker: Worker) -> bool:
        """Until the worker exits with 0; False where the stop came first. Raises InvalidSetting for wrong settings."""
        self._expect([worker])
        return await self._keep(worker, until_success=True)

    async def run_until_stop(self, workers: Sequence[Worker]) -> None:
        """Keep all alive until the stop. Raises InvalidSetting for wrong settings, when all have ended."""
        self._expect(workers)
        outcomes = await asyncio.gather(*(self._guarded(worker) for worker in workers), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _guarded(self, worker: Worker) -> None:
        """Whatever ends one worker for good ends all."""
        try:
            await self._keep(worker, until_success=False)
        finally:
            self._stopping.set()

    async def _keep(self, worker: Worker, *, until_success: bool) -> bool:
        back_off = RestartBackOff(self._restarts)
        loop = asyncio.get_running_loop()
        while not self.is_stopping:
            started_at = loop.time()
            exit_code, last_line = await self._live(worker)
            lived_seconds = loop.time() - started_at
            ended = f"{worker.name} ended after {lived_seconds:.1f} s: {_describe(exit_code)}"
            if exit_code == EXIT_WRONG_SETTINGS:
                self._output.say(ended)
                raise InvalidSetting(worker.name, last_line or "ended with exit code 2, without a word")
            if until_success and exit_code == 0:
                self._output.say(ended)
                return not self.is_stopping
            if self.is_stopping:
                self._output.say(ended)
                break
            pause_seconds = back_off.pause_seconds(lived_seconds)
            self._output.say(f"{ended}; starting it again in {pause_seconds:g} s")
            await self.pause(pause_seconds)
        return False

    async def _live(self, worker: Worker) -> tuple[int, str]:
        """One life of a worker: its exit code, negative for a signal, and the last line that it wrote."""
        port = self._take_port()
        address = f"127.0.0.1:{port}"
        process = await asyncio.create_subprocess_exec(
            *_BOUND,
            str(os.getpid()),
            *self._command,
            worker.role,
            env={**worker.environment, "WALLET_HTTP_ADDRESS": address},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._note(RunningWorker(worker.role, worker.replica, process.pid, f"http://{address}"))
        self._output.say(f"{worker.name} started: pid {process.pid}, http://{address}")
        assert process.stdout is not None  # noqa: S101 - asked for above
        logs = asyncio.create_task(self._pass_on(worker.name, process.stdout))
        exited = asyncio.create_task(process.wait())
        if not await _done_before(exited, self._stopping):
            await self._end(process, exited)
        await asyncio.wait({logs}, timeout=LOGS_SECONDS_MAX)
        if not logs.done():
            logs.cancel()
        self._ports.discard(port)
        self._note(RunningWorker(worker.role, worker.replica))
        return exited.result(), logs.result() if logs.done() and not logs.cancelled() else ""

    async def _end(self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
        _signal_group(process, signal.SIGTERM)
        if not await _done_before(exited, self._killing, self._stop_seconds_max):
            _signal_group(process, signal.SIGKILL)
            await asyncio.wait({exited})

    async def _pass_on(self, name: str, stream: asyncio.StreamReader) -> str:
        """Everything that a worker writes, to the output. Returns its last line that is not empty."""
        lines = Lines()
        last = b""
        while piece := await stream.read(_READ_SIZE_MAX):
            for line in lines.feed(piece):
                self._output.line(name, line)
                last = line if line.strip() else last
        for line in lines.end():
            self._output.line(name, line)
            last = line
        return last.decode(errors="replace").strip()

    def _expect(self, workers: Sequence[Worker]) -> None:
        self._workers = {worker.name: RunningWorker(worker.role, worker.replica) for worker in workers}
        self._list_workers(tuple(self._workers.values()))

    def _note(self, worker: RunningWorker) -> None:
        self._workers[worker.name] = worker
        self._list_workers(tuple(self._workers.values()))

    def _take_port(self) -> int:
        """A TCP port of 127.0.0.1 that nobody uses, from below the range that the kernel gives to clients."""
        port = free_port(int(_CLIENT_PORTS.read_text().split()[0]), self._ports)
        self._ports.add(port)
        return port


def free_port(clients_from: int, taken: Collection[int] = ()) -> int:
    """A port of 127.0.0.1 that nobody uses and that is not among the taken ones.

    From below `clients_from`, where the kernel's range for clients begins, if one is free there within PORT_TRIES_MAX
    tries; else one that the kernel chooses.
    """
    below = range(max(_PORT_MIN, clients_from - _PORTS_BELOW_CLIENTS), clients_from)
    tries = random.sample(below, min(PORT_TRIES_MAX, len(below)))
    for port in (*tries, *[0] * _KERNEL_TRIES_MAX):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found = int(probe.getsockname()[1])
            if found not in taken:
                return found
    raise OSError(errno.EADDRNOTAVAIL, "no port of 127.0.0.1 is free")


async def _done_before(task: asyncio.Task[Any], event: asyncio.Event, timeout_seconds: float | None = None) -> bool:
    """Wait for the task, but no longer than for the event or the time-out. Whether it is done."""
    asked = asyncio.create_task(event.wait())
    await asyncio.wait({task, asked}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    return task.done()


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _describe(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
