"""Processes that cannot be mistaken for others, and the ports that are really theirs.

A pid is recycled, a port can be taken by a stranger. So nothing here trusts a bare number:

- A process is a `ProcessId`: its pid *and* its start time in clock ticks since boot (field 22 of /proc/<pid>/stat). A
  signal is sent only to a pid whose start time still fits.
- A port belongs to the processes that hold its listening socket: /proc/net/tcp gives the socket's inode, /proc/<pid>/fd
  says who has it open. `prove_listening` fails unless they are the process we started or its descendants.

Every child leads its own process group, so that stopping it stops what it started. A *bound* child dies with this
process (see `BOUND`), a *detached* one has its own session and outlives it; its `ProcessId` is written to a record, by
which a later command finds it again. Stopping is SIGTERM, a bounded wait, SIGKILL; descendants that left the group
are killed too once their leader is gone.
"""

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from devstack.errors import PortTaken

STOP_TIMEOUT_SECONDS = 20.0
"""How long a process may take after SIGTERM; the workers drain within 10 s."""
POLL_SECONDS = 0.02
COMMAND_LENGTH_MAX = 120
"""Characters of a foreign command line that a message repeats."""

PROC = Path("/proc")
PORT_MIN = 1024
PORTS_BELOW_CLIENTS = 12_000
PORT_TRIES_MAX = 50
LISTEN_STATE = "0A"
STARTED_TICKS_FIELD = 19
"""Field 22 of /proc/<pid>/stat, counted from behind the command name, which may contain spaces."""
THREADS_FIELD = 17
"""Field 20. A process whose first thread is a zombie still holds its ports while others of its threads are ending."""
LOOPBACK_OR_ANY = frozenset(
    {
        "0100007F",  # 127.0.0.1
        "00000000",  # 0.0.0.0
        "0" * 32,  # ::
        "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
    }
)
"""The local addresses, as /proc/net/tcp{,6} writes them, that answer on 127.0.0.1."""

BOUND = Path(__file__).resolve().parents[3] / "cli" / "wallet_cli" / "bound.py"
"""The program that makes a child die with its parent; a program and not a module, so no package need be installed."""
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devstack-starter")
"""The one thread that starts children. A bound child dies with the *thread* that forked it; this one lives as long as
the process, whichever thread asked."""


def wait_until(condition: Callable[[], bool], timeout_seconds: float, poll_seconds: float = POLL_SECONDS) -> bool:
    """Whether `condition` came true before the time-out."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; empty when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, for as long as it lives: another one with its pid is not equal to it."""

    pid: int
    started_ticks: int
    """Clock ticks between the boot and the process's start."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has `pid` now; None if there is none, or only its zombie."""
        fields = _stat(pid)
        if not fields or (fields[0] in "ZX" and int(fields[THREADS_FIELD]) <= 1):
            return None
        return cls(pid, int(fields[STARTED_TICKS_FIELD]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def command(self) -> str:
        """The command line, for people."""
        with suppress(OSError):
            words = (
                (PROC / str(self.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            )
            return words if len(words) <= COMMAND_LENGTH_MAX else words[:COMMAND_LENGTH_MAX] + "…"
        return "?"

    def descendants(self) -> set[Self]:
        """Its children, their children, and so on, as they are now."""
        children: dict[int, list[int]] = {}
        for entry in PROC.iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found: set[Self] = set()
        pending = list(children.get(self.pid, []))
        while pending:
            pid = pending.pop()
            pending += children.get(pid, [])
            if (process := self.of(pid)) is not None:
                found.add(process)
        return found

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the group that this process leads, or it alone if it leads none. False if it is gone."""
        if not self.alive():
            return False
        with suppress(ProcessLookupError):
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
            return True
        return False

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> bool:
        """SIGTERM to the group, a bounded wait, SIGKILL, also to what it had started. False if it was gone before."""
        family = self.descendants() if self.alive() else set()
        if not self.signal_group(signal.SIGTERM):
            return False
        self.signal_group(signal.SIGCONT)
        wait_until(lambda: not self.alive(), timeout_seconds)
        self.signal_group(signal.SIGKILL)
        for process in family:
            process.signal_group(signal.SIGKILL)
        wait_until(lambda: not any(process.alive() for process in {self, *family}), timeout_seconds)
        return True


@dataclass(frozen=True, slots=True)
class Record:
    """A detached process as a later command finds it: `<directory>/<name>.json`."""

    name: str
    process: ProcessId
    ports: tuple[int, ...] = ()

    @staticmethod
    def path(directory: Path, name: str) -> Path:
        """Where the record of `name` lies."""
        return directory / f"{name}.json"

    def write(self, directory: Path) -> None:
        """Write it in one step: a reader sees the whole record or none."""
        directory.mkdir(parents=True, exist_ok=True)
        path = self.path(directory, self.name)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        content = {"pid": self.process.pid, "started_ticks": self.process.started_ticks, "ports": self.ports}
        draft.write_text(json.dumps(content) + "\n")
        draft.replace(path)

    @classmethod
    def read(cls, directory: Path, name: str) -> Self | None:
        """The record of `name`; None if there is none, or one that nobody can read."""
        try:
            content = json.loads(cls.path(directory, name).read_text())
            process = ProcessId(int(content["pid"]), int(content["started_ticks"]))
            return cls(name, process, tuple(int(port) for port in content.get("ports", ())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(slots=True)
class Child:
    """A process that this one started, or found again by its record."""

    process: ProcessId
    log: Path
    popen: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    """None for one found by its record: its exit code is not ours to know."""

    @classmethod
    def start(
        cls,
        command: Sequence[str | Path],
        log: Path,
        *,
        bound: bool,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Start `command` in a process group of its own, output appended to `log`; bound: it dies with this process.

        `env` is the whole environment; None: this process's own.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in command]
        if bound:
            words = [sys.executable, "-I", "-S", str(BOUND), str(os.getpid()), *words]
        with log.open("ab") as output:
            popen = _STARTER.submit(
                subprocess.Popen, words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, env=env,
                start_new_session=not bound, process_group=0 if bound else None,
            ).result()  # fmt: skip
        # A child that is not yet waited for keeps its /proc entry, even as a zombie.
        return cls(ProcessId(popen.pid, int(_stat(popen.pid)[STARTED_TICKS_FIELD])), log, popen)

    def alive(self) -> bool:
        """Whether it still runs; reaps it when not."""
        if self.popen is not None:
            return self.popen.poll() is None
        return self.process.alive()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, if it ended and was our child."""
        return None if self.popen is None else self.popen.poll()

    def signal(self, number: signal.Signals) -> None:
        """Signal its group; nothing happens if it is gone."""
        self.process.signal_group(number)

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """SIGTERM, a bounded wait, SIGKILL. Returns when it is gone and reaped."""
        self.process.stop(timeout_seconds)
        self._reap()

    def kill(self) -> None:
        """SIGKILL to the group. Returns when it is gone and reaped."""
        self.process.signal_group(signal.SIGKILL)
        wait_until(lambda: not self.process.alive(), STOP_TIMEOUT_SECONDS)
        self._reap()

    def _reap(self) -> None:
        if self.popen is not None:
            self.popen.wait(STOP_TIMEOUT_SECONDS)

    def last_words(self, lines: int = 3) -> str:
        """The last lines of its log, as one."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        kept = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(kept[-lines:])


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                address, _, hex_port = words[1].rpartition(":")
                if words[3] == LISTEN_STATE and int(hex_port, 16) == port and address in LOOPBACK_OR_ANY:
                    inodes.add(words[9])
    return inodes


def owner_of_port(port: int) -> set[int] | None:
    """The pids that listen on 127.0.0.1:`port`. None: nobody listens; empty: somebody whom we may not look at."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    owners: set[int] = set()
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            for descriptor in (entry / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in wanted:
                        owners.add(int(entry.name))
                        break
    return owners


def _names(pids: set[int]) -> str:
    known = [process for pid in sorted(pids) if (process := ProcessId.of(pid)) is not None]
    return ", ".join(f"pid {process.pid} ({process.command()})" for process in known) or "another user's process"


def require_free(service: str, port: int, remedy: str) -> None:
    """Raise `PortTaken` if anybody listens on 127.0.0.1:`port`."""
    owners = owner_of_port(port)
    if owners is not None:
        raise PortTaken(service, port, _names(owners), remedy)


def prove_listening(service: str, process: ProcessId, port: int, remedy: str) -> None:
    """Raise `PortTaken` unless `process` or a descendant of it, and nobody else, listens on 127.0.0.1:`port`."""
    owners = owner_of_port(port)
    if owners is None:
        raise PortTaken(service, port, f"nobody, least of all pid {process.pid}", remedy)
    strangers = owners - {process.pid}
    if strangers:
        strangers -= {descendant.pid for descendant in process.descendants()}
    if strangers or not owners:
        raise PortTaken(service, port, _names(strangers), remedy)


def free_port(clients_from: int | None = None) -> int:
    """A TCP port of 127.0.0.1 that nobody uses.

    From below `clients_from` (by default where the kernel's range for clients begins), so that a service which is
    killed finds it free again; where none is free there within PORT_TRIES_MAX tries, one that the kernel chooses.
    """
    if clients_from is None:
        clients_from = int((PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    below = range(max(PORT_MIN, clients_from - PORTS_BELOW_CLIENTS), clients_from)
    for port in (*random.sample(below, min(PORT_TRIES_MAX, len(below))), 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError(errno.EADDRNOTAVAIL, "no port of 127.0.0.1 is free")
