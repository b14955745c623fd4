"""Workers that are born in milliseconds instead of a second: the tests of faults and shards start more than a thousand.

`python -m component.nursery <socket>` has imported everything and forks a worker for each request. A request is one
connection to the socket: a line of JSON {"role", "environment", "log"}; the answer is the pid, and later, when it has
ended, its exit code. Workers die with the nursery, the nursery with whoever started it. How a worker fails is said in
its environment, see `fault_worker.py` and `shard_worker.py`; without that it is the plain worker.
"""

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from component import fault_worker, shard_worker
from component.worker_processes import ANSWER_SECONDS_MAX
from devstack.processes import wait_until
from wallet_core.settings import Role
from wallet_workers.__main__ import main

PR_SET_PDEATHSIG = 1


def run(role: str, environ: Mapping[str, str]) -> int:
    """A worker's life; its exit code."""
    if "FAULT_FILE" in environ:
        return fault_worker.run(role, environ)
    if "SHARD_NOTES" in environ:
        return shard_worker.run(environ)
    return main([role], environ)


class ForkedProcess:
    """A worker that the nursery forked."""

    def __init__(self, nursery: Path, role: Role, variables: Mapping[str, str], log: Path) -> None:
        self.log = log
        log.touch()
        request = {"role": role.value, "environment": dict(variables), "log": str(log)}
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(ANSWER_SECONDS_MAX)
        self._connection.connect(str(nursery))
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        with self._connection.makefile("rb", buffering=0) as answer:
            self.pid = int(answer.readline())
        self._connection.setblocking(False)
        self._exit_code: int | None = None

    @property
    def exit_code(self) -> int | None:
        if self._exit_code is None:
            try:
                self._exit_code = int(self._connection.recv(64))
            except BlockingIOError:
                return None
            self._connection.close()
        return self._exit_code

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert wait_until(lambda: self.exit_code is not None, ANSWER_SECONDS_MAX)


class Nursery:
    """See the module."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._callers: dict[int, socket.socket] = {}
        self._libc = ctypes.CDLL(None)

    def serve(self) -> None:
        """For ever."""
        wake_in, wake_out = socket.socketpair()
        wake_in.setblocking(False)
        wake_out.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake_in.fileno())
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(wake_out, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._listener:
                    self._bear(self._listener.accept()[0])
                else:
                    wake_out.recv(4096)
                    self._bury()

    def _bear(self, caller: socket.socket) -> None:
        request = json.loads(caller.makefile("rb").readline())
        pid = os.fork()
        if pid == 0:
            self._become(request)
        self._callers[pid] = caller
        caller.sendall(f"{pid}\n".encode())

    def _become(self, request: Mapping[str, Any]) -> None:
        """In the child: never returns."""
        code = 1
        try:
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, 1024)
            code = run(request["role"], request["environment"])
            sys.stdout.flush()
        finally:
            os._exit(code)

    def _bury(self) -> None:
        while self._callers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._callers.pop(pid) as caller, suppress(OSError):
                caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    Nursery(sys.argv[1]).serve()
