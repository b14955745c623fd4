"""What runs here: `.local/run/<namespace>.<name>.json`, written by `walletctl run`, read by the other commands.

The file names its supervisor by pid *and* start time (field 22 of /proc/<pid>/stat), for a pid is recycled: a file
whose supervisor is gone is stale, and nobody takes it for a running wallet. It is replaced whole, so a reader never
sees half of one. One wallet has one supervisor: whoever claims the file looks and writes under a lock on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

RUN_DIRECTORY = Path(".local/run")

_STARTED_TICKS = 19
# Field 22 of /proc/<pid>/stat, counted from behind the command's name, which may contain spaces.


class RunsAlready(Exception):
    """Another `walletctl run` supervises this wallet."""


@dataclass(frozen=True)
class Process:
    """A process, for as long as it lives: another one with its pid is not equal to it."""

    pid: int
    started_ticks: int
    """Clock ticks from the boot to its start."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now; None where there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat.rpartition(") ")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[_STARTED_TICKS]))

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self


@dataclass(frozen=True)
class RunningWorker:
    """One worker as its supervisor sees it."""

    role: str
    replica: int
    """From 0."""
    pid: int | None = None
    """None while it waits to be started again."""
    url: str | None = None
    """Where it serves `/status`, `/metrics`, `/live` and `/ready`."""

    @property
    def name(self) -> str:
        """`<role>-<replica>`."""
        return f"{self.role}-{self.replica}"


@dataclass(frozen=True)
class RunningWallet:
    """A wallet whose workers run here."""

    wallet: str
    """`<namespace>.<name>`."""
    supervisor: Process
    resource: str
    """Absolute path of the resource's file."""
    workers: tuple[RunningWorker, ...] = ()


class RunFile:
    """A supervisor's own file: claimed at its start, kept up to date, removed at its end."""

    def __init__(self, path: Path, wallet: RunningWallet) -> None:
        self.path = path
        self._wallet = wallet

    @classmethod
    def claim(cls, directory: Path, wallet: str, resource: Path) -> RunFile:
        """Take the wallet's file for this process, from a dead owner if need be. Raises RunsAlready."""
        directory.mkdir(parents=True, exist_ok=True)
        this = Process.of(os.getpid())
        if this is None:
            raise RuntimeError("/proc does not show this process")
        file = cls(_path(directory, wallet), RunningWallet(wallet, this, str(resource.resolve())))
        with _locked(directory):
            owner = _read(file.path)
            if owner is not None and owner.supervisor.is_alive():
                raise RunsAlready(
                    f"{wallet} runs already, supervised by pid {owner.supervisor.pid}: "
                    f"end that one (Ctrl-C, or kill {owner.supervisor.pid}), or look at it with `walletctl status`"
                )
            file._write()
        return file

    def list_workers(self, workers: Sequence[RunningWorker]) -> None:
        """Write down which workers there are now."""
        self._wallet = replace(self._wallet, workers=tuple(workers))
        self._write()

    def remove(self) -> None:
        """Remove the file, unless it is another's by now."""
        with _locked(self.path.parent):
            owner = _read(self.path)
            if owner is not None and owner.supervisor == self._wallet.supervisor:
                self.path.unlink()

    def _write(self) -> None:
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self._wallet)) + b"\n")
        draft.replace(self.path)


def running_wallets(directory: Path) -> list[RunningWallet]:
    """The wallets that run here, by name. Stale files, and files that nobody can read, count for nothing."""
    found = [_read(path) for path in sorted(directory.glob("*.json"))]
    return [wallet for wallet in found if wallet is not None and wallet.supervisor.is_alive()]


def _path(directory: Path, wallet: str) -> Path:
    return directory / f"{wallet}.json"


def _read(path: Path) -> RunningWallet | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunningWallet)
    except (OSError, msgspec.MsgspecError):
        return None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
