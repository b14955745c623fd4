"""Workers that kill or stop themselves at a chosen effect: the test entry point. Production code has no fail points.

An *effect* is a call by which a worker changes the world or its claim on it: every such method of its ports, and every
request of its Kafka producers that Kafka remembers. Each goes through `Faults.around`, which numbers it, writes its
name to a file, and at the chosen number, before or after it, sends SIGKILL or SIGSTOP to its own process. So nothing of
the process runs between the effect and the signal. A call that is repeated until it gives something (`POLLS`) counts
once it did, for otherwise it has changed nothing. Environment:

    FAULT_FILE     each counted effect's name, a line each; then "<action> <when> <number> <name>" where it acted
    FAULT_COUNTED  the names that are counted, with spaces between: names count apart what comes in no fixed order
    FAULT_AT       the number of the effect, from 1
    FAULT_WHEN     before | after
    FAULT_ACTION   kill | stop
    FAULT_AHEAD    "fails": no producer can be started ahead, so every append starts its own, behind the deadline check
"""

import functools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import fields, replace
from typing import Any

from aiokafka import AIOKafkaProducer

from wallet_core.settings import Role
from wallet_workers.__main__ import ROLES, RoleParts, main
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.wiring import Process

PORT_EFFECTS: Mapping[str, frozenset[str]] = {
    "lock": frozenset({"acquire", "renew", "release"}),
    "ledger": frozenset({"recover", "append"}),
    "queue": frozenset({"start", "commit"}),
    "topics": frozenset({"create"}),
    "board": frozenset({"open", "post", "take", "withdraw", "close", "claim", "hand_back", "put_back"}),
}
"""By the port's name in its role's dataclass. A port that is not here only reads. A renewal (the board's `renew`, and
`announce`) moves a deadline only, and what comes of that is seen at the lock's."""
POLLS = frozenset({"board.take", "board.claim"})
PRODUCER_EFFECTS = frozenset(
    {"start", "send_batch", "send_offsets_to_transaction", "commit_transaction", "abort_transaction"}
)
LOCK_EFFECTS = frozenset(f"lock.{effect}" for effect in PORT_EFFECTS["lock"])
SCANNER_EFFECTS = frozenset({"board.claim", "board.hand_back", "board.put_back"})
"""They come beside the sequencer's, in no fixed order."""
WORK_EFFECTS = (
    frozenset(
        {f"{port}.{effect}" for port, effects in PORT_EFFECTS.items() for effect in effects}
        | {f"producer.{effect}" for effect in PRODUCER_EFFECTS}
    )
    - LOCK_EFFECTS
    - SCANNER_EFFECTS
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
        self._has_acted = False
        self.ledger_calls = 0
        """How many calls of the ledger are under way."""

    def check_start(self) -> None:
        """Let a producer's start fail where nobody waits for it yet."""
        if self._ahead_fails and not self.ledger_calls:
            raise OSError("no producer is started ahead")

    async def around(self, name: str, effect: Callable[[], Awaitable[Any]]) -> Any:
        if name not in self._counted:
            return await effect()
        if name in POLLS:
            return await self._around_poll(name, effect)
        self._number += 1
        number = self._number
        self._note(name)
        self._act("before", number, name)
        try:
            return await effect()
        finally:
            self._act("after", number, name)

    async def _around_poll(self, name: str, effect: Callable[[], Awaitable[Any]]) -> Any:
        self._act("before", self._number + 1, name)
        given = await effect()
        if given is not None:
            self._number += 1
            self._note(name)
            self._act("after", self._number, name)
        return given

    def _act(self, when: str, number: int, name: str) -> None:
        if (when, number) == (self._when, self._at) and not self._has_acted:
            self._has_acted = True
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
    """The life of a worker with faults."""
    faults = Faults(environ)
    return main([role], environ, {each: faulty(parts, faults) for each, parts in ROLES.items() if each in list(Role)})
