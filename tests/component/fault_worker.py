"""Workers that kill or stop themselves at a chosen effect: the test entry point. Production code has no fail points.

An *effect* is a call by which a worker changes the world or its claim on it: every such method of its ports, and every
request of its Kafka producers that Kafka remembers. Each goes through `Faults.around`, which numbers it, writes its
name to a file, and at the chosen number, before or after it, sends SIGKILL or SIGSTOP to its own process. So nothing of
the process runs between the effect and the signal. Environment:

    FAULT_FILE     each counted effect's name, a line each; then "<action> <when> <number> <name>" where it acted
    FAULT_COUNTED  the names that are counted, with spaces between: names count apart what comes in no fixed order
    FAULT_AT       the number of the effect, from 1
    FAULT_WHEN     before | after
    FAULT_ACTION   kill | stop
    FAULT_AHEAD    "fails": no producer can be started ahead, so every append starts its own, behind the deadline check

`python fault_worker.py <socket>` is a *nursery*: it has imported everything and forks a worker for each request, in
milliseconds instead of a second, for the enumeration starts a thousand. A request is one connection to the socket: a
line of JSON {"role", "environment", "log"}; the answer is the pid, and later, when it has ended, its exit code.
Workers die with the nursery, the nursery with whoever started it.
"""

import ctypes
import functools
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import fields, replace
from typing import Any

from aiokafka import AIOKafkaProducer

from wallet_core.settings import Role
from wallet_workers.__main__ import ROLES, RoleParts, main
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.wiring import Process

PR_SET_PDEATHSIG = 1
PORT_EFFECTS: Mapping[str, frozenset[str]] = {
    "lock": frozenset({"acquire", "renew", "release"}),
    "ledger": frozenset({"recover", "append"}),
    "queue": frozenset({"start", "commit"}),
    "topics": frozenset({"create"}),
}
"""By the port's name in its role's dataclass. A port that is not here only reads."""
PRODUCER_EFFECTS = frozenset(
    {"start", "send_batch", "send_offsets_to_transaction", "commit_transaction", "abort_transaction"}
)
LOCK_EFFECTS = frozenset(f"lock.{effect}" for effect in PORT_EFFECTS["lock"])
WORK_EFFECTS = (
    frozenset(
        {f"{port}.{effect}" for port, effects in PORT_EFFECTS.items() for effect in effects}
        | {f"producer.{effect}" for effect in PRODUCER_EFFECTS}
    )
    - LOCK_EFFECTS
)
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Faults:
    """Counts effects, and acts at one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._file = environ["FAULT_FILE"]
        self._counted = frozenset(environ["FAULT_COUNTED"].split())
        self._at = int(environ["FAULT_AT"])
        self._when = environ["FAULT_WHEN"]
        self._action = environ["FAULT_ACTION"]
        self._ahead_fails = environ.get("FAULT_AHEAD") == "fails"
        self._number = 0
        self.ledger_calls = 0
        """How many calls of the ledger are under way."""

    def check_start(self) -> None:
        """Let a producer's start fail where nobody waits for it yet."""
        if self._ahead_fails and not self.ledger_calls:
            raise OSError("no producer is started ahead")

    async def around(self, name: str, effect: Callable[[], Awaitable[Any]]) -> Any:
        if name not in self._counted:
            return await effect()
        self._number += 1
        number = self._number
        self._note(name)
        self._act("before", number, name)
        try:
            return await effect()
        finally:
            self._act("after", number, name)

    def _act(self, when: str, number: int, name: str) -> None:
        if (when, number) == (self._when, self._at):
            self._note(f"{self._action} {when} {number} {name}")
            os.kill(os.getpid(), SIGNALS[self._action])

    def _note(self, line: str) -> None:
        with open(self._file, "a") as file:  # noqa: PTH123 - one write, unbuffered in effect: the next step may be death
            file.write(line + "\n")


class FaultyPort:
    """A port whose effects are counted."""

    def __init__(self, name: str, port: Any, faults: Faults) -> None:
        self._name = name
        self._port = port
        self._faults = faults

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._port, attribute)
        if attribute not in PORT_EFFECTS[self._name]:
            return found

        async def effect(*arguments: Any) -> Any:
            return await self._faults.around(f"{self._name}.{attribute}", lambda: self._call(found, *arguments))

        return effect

    async def _call(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        if self._name != "ledger":
            return await method(*arguments)
        self._faults.ledger_calls += 1
        try:
            return await method(*arguments)
        finally:
            self._faults.ledger_calls -= 1


class FaultyProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka publishes no types
    """aiokafka's producer, whose requests are counted."""

    def __init__(self, faults: Faults, **settings: Any) -> None:
        super().__init__(**settings)
        self._faults = faults

    async def start(self) -> None:
        self._faults.check_start()
        await self._faults.around("producer.start", super().start)

    async def send_batch(self, *arguments: Any, **more: Any) -> Any:
        """Done when the broker has it: only then is there an effect to be after."""

        async def send() -> Any:
            arrival = await super(FaultyProducer, self).send_batch(*arguments, **more)
            with suppress(Exception):  # whoever sent it awaits it too
                await arrival
            return arrival

        return await self._faults.around("producer.send_batch", send)

    async def send_offsets_to_transaction(self, *arguments: Any) -> Any:
        send = functools.partial(super().send_offsets_to_transaction, *arguments)
        return await self._faults.around("producer.send_offsets_to_transaction", send)

    async def commit_transaction(self) -> None:
        await self._faults.around("producer.commit_transaction", super().commit_transaction)

    async def abort_transaction(self) -> None:
        await self._faults.around("producer.abort_transaction", super().abort_transaction)


def faulty(parts: RoleParts, faults: Faults) -> RoleParts:
    """The role with every effect counted."""

    @asynccontextmanager
    async def ports(settings: Any, process: Process) -> AsyncIterator[Any]:
        process.kafka_clients = lambda servers: KafkaClients(
            servers, producer_class=functools.partial(FaultyProducer, faults)
        )
        inner: AbstractAsyncContextManager[Any] = parts.ports(settings, process)
        async with inner as plain:
            wrapped = {
                field.name: FaultyPort(field.name, getattr(plain, field.name), faults)
                for field in fields(plain)
                if field.name in PORT_EFFECTS
            }
            yield replace(plain, **wrapped)

    return replace(parts, ports=ports)


def run(role: str, environ: Mapping[str, str]) -> int:
    """A worker's life, with faults where its environment asks for them."""
    if "FAULT_FILE" not in environ:
        return main([role], environ)
    faults = Faults(environ)
    return main([role], environ, {each: faulty(parts, faults) for each, parts in ROLES.items() if each in list(Role)})


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
