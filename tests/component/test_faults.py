"""Each worker is killed, or sleeps beyond its lock's life while another takes over, before and after every effect.

`fault_worker.py` counts the effects of a worker and acts at the n-th. Every test here takes one role, one action and
one side of the effect, and plays the same short story again and again: n = 1, 2, … until a story ends without an n-th
effect. After each story a `read_committed` reader must have seen every event once, in order, and no checkpoint that
goes back. What was killed is started again, as a supervisor would; what was stopped finds, when it wakes, that a second
worker has gone on, and both live on through one more deposit.

Each effect of the lock is counted for itself, for renewals come by the clock and would shift the others' numbers; so
are a scanner's, which come beside the sequencer's.

Sync has three stories: of the head; of catching up by spans, which one worker alone offers, scans and takes; and of an
order, a rescan that finds what was paid to an address before it was watched.
"""

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from component.fault_worker import LOCK_EFFECTS, SCANNER_EFFECTS, WORK_EFFECTS
from component.sent_orders import order, outcome, watch
from component.worker_processes import (
    CONFIRMATION_DEPTH,
    LOOK_SECONDS,
    SETTLE_DEPTH,
    Journal,
    Launch,
    Seen,
    Wallet,
    Worker,
    WorkerProcess,
    eventually,
    running_wallet,
)
from devstack.services import Anvil, Kafka, Redis
from devstack.tools import Tools
from wallet_core.checkpoint import CHECKPOINT_KEY, IDENTITY_KEY
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_core.settings import Role
from wallet_core.spans import FAR_BEHIND_BLOCKS_MIN

STORIES_AT_ONCE = 4
"""Most of a story is waiting: for a lock's life to end, for a block, for a poll."""
WAITING_STORIES_AT_ONCE = 8
"""Kafka gives a silent group member's partitions away after 10 s; meanwhile such a story does nothing."""
EFFECTS_MAX = 200
"""Far more than a story has: a worker that repeats itself for ever must not keep the test busy for ever."""
TUNING = {"lockTtlSeconds": 1, "transactionTimeoutSeconds": 5, "pollSeconds": 0.1}
RENEWAL = "lock.renew"
BAD_COMMAND = b"no JSON"
STRANGER = "0x" + "11" * 20
LATELY_WATCHED = "0x" + "22" * 20
BLOCKS_BEHIND = FAR_BEHIND_BLOCKS_MIN + SETTLE_DEPTH

Say = Callable[[str], None]


@pytest.fixture(scope="module")
def chains(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Anvil]]:
    """One chain for each story at once; blocks come when a story says so."""
    made = [Anvil(tools=tools, data=tmp_path_factory.mktemp("chain"), mining=False) for _ in range(STORIES_AT_ONCE)]
    try:
        for chain in made:
            chain.start()
        yield made
    finally:
        for chain in made:
            chain.stop()


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """Prints a line, whatever pytest captures."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert terminal is not None
    assert capture is not None

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)

    return write


# --- one worker with a fault ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Where a worker acts on itself."""

    role: Role
    counted: frozenset[str]
    action: str
    when: str
    at: int
    story: str = "head"
    """Of sync: head, behind or order."""
    starts_late: bool = False
    """Whether every append starts its producer itself, behind the look at the lock's deadline."""

    def variables(self, file: Path) -> dict[str, str]:
        return {
            "FAULT_FILE": str(file),
            "FAULT_COUNTED": " ".join(sorted(self.counted)),
            "FAULT_AT": str(self.at),
            "FAULT_WHEN": self.when,
            "FAULT_ACTION": self.action,
            "FAULT_AHEAD": "fails" if self.starts_late else "works",
        }


class Patient:
    """The role with the fault: its first worker, which acts on itself, and whoever a supervisor starts after that."""

    def __init__(self, wallet: Wallet, fault: Fault, launch: Launch) -> None:
        self._wallet = wallet
        self._fault = fault
        self._launch = launch
        self._effects = wallet.directory / "effects"
        self._effects.touch()
        self._replaced: list[Worker] = []
        self._second: Worker | None = None
        self._stopped_in_stage = 0
        self.workers: list[Worker] = []
        self.stage = 0
        """How many parts of the story have been told."""
        self.is_last_stage = False
        self.has_woken = False

    def start(self) -> None:
        """Start the worker that acts on itself."""

        def launch(role: Role, variables: Mapping[str, str], log: Path) -> WorkerProcess:
            return self._launch(role, {**variables, **self._fault.variables(self._effects)}, log)

        self.workers.append(self._wallet.start(self._fault.role, launch=launch))

    def effect(self) -> str | None:
        """The effect at which it acted; None while it has not."""
        acted = [line for line in self._effects.read_text().splitlines() if line.startswith(f"{self._fault.action} ")]
        return acted[0].split()[-1] if acted else None

    async def supervise(self) -> None:
        """Start again what ends; start a second beside what was stopped, and wake that when the second has gone on."""
        while True:
            for worker in [each for each in self.workers if each not in self._replaced]:
                if worker.process.exit_code not in {None, 0}:
                    self._replaced.append(worker)
                    self.workers.append(self._wallet.start(self._fault.role))
            first = self.workers[0]
            if self._second is None and first.is_stopped():
                self._stopped_in_stage = self.stage
                self._second = self._wallet.start(self._fault.role)
                self.workers.append(self._second)
            if self._second is not None and not self.has_woken and await self._second_went_on(self._second):
                first.process.signal(signal.SIGCONT)
                self.has_woken = True
            await asyncio.sleep(LOOK_SECONDS)

    async def _second_went_on(self, second: Worker) -> bool:
        if self._fault.role is Role.BOOTSTRAP:
            return second.process.exit_code == 0
        if self.stage == self._stopped_in_stage and not self.is_last_stage:
            return False
        said = await second.status()
        return bool(said.get("partitions" if self._fault.role is Role.COMMAND else "leader"))

    async def has_renewed(self) -> bool:
        """Whether the faulty worker has renewed its lock, or has acted and never will."""
        return self.effect() is not None or RENEWAL in self._effects.read_text().splitlines()

    async def has_recovered(self) -> bool:
        """Whether the fault is over: the killed was replaced, the stopped is awake."""
        return self.has_woken if self._fault.action == "stop" else bool(self._replaced)

    async def drain(self) -> None:
        """SIGTERM to every worker that lives. Each ends well, or acts on itself, and is then seen to by `supervise`.

        A woken command worker that was fenced meanwhile may be just about to end by itself, as it must.
        """
        ends = {0, -signal.SIGKILL, 1} if self._fault.role is Role.COMMAND and self.has_woken else {0, -signal.SIGKILL}
        draining = [worker for worker in self.workers if worker.process.exit_code is None]
        for worker in draining:
            worker.process.signal(signal.SIGTERM)
        for worker in draining:
            assert await worker.until_exit() in ends, worker.last_lines()


# --- the story --------------------------------------------------------------------------------------------------------


class Story:
    """One life of a wallet: an account, a deposit, a fork, the confirmation, one fault."""

    def __init__(self, wallet: Wallet, fault: Fault, launch: Launch) -> None:
        self._wallet = wallet
        self._fault = fault
        self._patient = Patient(wallet, fault, launch)
        self._address = ""
        self._told: dict[str, list[str]] = {}
        """By transaction: the statuses that a reader must see, in order."""
        self._accounts = 0
        self._refused = 0

    async def tell(self) -> str | None:
        """The effect at which the fault came; None where there was no n-th."""
        acts = {
            Role.BOOTSTRAP: [self._begin, self._open_account, self._deposit],
            Role.COMMAND: [self._begin, self._open_account, self._send_more_commands],
            Role.SYNC: {
                "head": [self._begin, self._open_account, self._deposit, self._fork, self._confirm],
                "behind": [self._catch_up, self._deposit],
                "order": [self._rescan, self._open_account, self._deposit],
            }[self._fault.story],
        }[self._fault.role]
        if RENEWAL in self._fault.counted:
            acts.append(self._outlive_a_renewal)
        supervising: asyncio.Task[None] | None = None
        try:
            await self._stage_setting()
            supervising = asyncio.create_task(self._patient.supervise())
            for act in acts:
                await self._without_end_of(supervising, act())
                self._patient.stage += 1
            self._patient.is_last_stage = True
            if self._patient.effect():
                await self._without_end_of(supervising, self._go_on())
            await self._without_end_of(supervising, self._patient.drain())
            if self._patient.effect() and not await self._all_ended():
                await self._without_end_of(supervising, self._go_on())
        finally:
            if supervising is not None:
                supervising.cancel()
                await asyncio.gather(supervising, return_exceptions=True)
        await self._check()
        return self._patient.effect()

    async def _without_end_of(self, supervising: asyncio.Task[None], act: Awaitable[None]) -> None:
        """Run a part of the story; a supervisor that failed ends it at once."""
        acting = asyncio.ensure_future(act)
        try:
            await asyncio.wait({acting, supervising}, return_when=asyncio.FIRST_COMPLETED)
            if supervising.done():
                supervising.result()
            await acting
        finally:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)

    async def _all_ended(self) -> bool:
        """After the drain: whether nobody acted on himself instead. A supervisor looks again and again."""

        async def look() -> bool:
            return self._patient.effect() is None or await self._patient.has_recovered()

        await eventually(look, bool)
        return all(worker.process.exit_code is not None for worker in self._patient.workers)

    async def _stage_setting(self) -> None:
        if self._fault.role is Role.BOOTSTRAP:
            self._patient.start()
        else:
            await self._wallet.bootstrap()
            self._start(Role.COMMAND)
            if self._fault.story == "behind":
                await self._fall_behind()
            if self._fault.story == "order":
                await self._pay_too_early()
            if self._fault.role is Role.SYNC:
                self._start(Role.SYNC)

    def _start(self, role: Role) -> None:
        if role is self._fault.role:
            self._patient.start()
        else:
            self._wallet.start(role)

    async def _begin(self) -> None:
        """Bootstrap has ended."""
        if self._fault.role is not Role.BOOTSTRAP:
            return

        async def codes() -> list[int | None]:
            return [worker.process.exit_code for worker in self._patient.workers]

        await eventually(codes, lambda codes: codes[-1] == 0 and set(codes) <= {0, -signal.SIGKILL})
        self._wallet.start(Role.COMMAND)
        self._wallet.start(Role.SYNC)

    async def _open_account(self) -> None:
        self._address = await self._wallet.create_account()
        self._accounts += 1

    async def _send_more_commands(self) -> None:
        await self._wallet.send(BAD_COMMAND)
        self._refused += 1
        await self._open_account()
        journal = await self._wallet.journal()
        await journal.until(Topic.ERRORS, lambda seen: len(seen) >= self._refused)

    async def _deposit(self) -> None:
        txid = await self._wallet.pay(self._address)
        await self._wallet.pay(STRANGER)
        await self._wallet.mine()
        await self._until(txid, "detected")

    async def _fork(self) -> None:
        """The block is replaced by one that holds the deposit alone."""
        (txid,) = self._told
        raw = await self._wallet.rpc("eth_getRawTransactionByHash", txid)
        old = await self._wallet.block_of(txid)
        await self._wallet.rpc("anvil_reorg", 1, [[raw, 0]])
        assert await self._wallet.block_of(txid) != old
        await self._until(txid, "detected", "orphaned", "detected")

    async def _confirm(self) -> None:
        ((txid, statuses),) = self._told.items()
        await self._wallet.rpc("anvil_mine", hex(CONFIRMATION_DEPTH - 1))
        await self._until(txid, *statuses, "confirmed")

    async def _fall_behind(self) -> None:
        """Two spans of blocks, each with a deposit."""
        await self._open_account()
        for _ in range(2):
            self._told[await self._wallet.pay(self._address)] = ["confirmed"]
            await self._wallet.rpc("anvil_mine", hex(BLOCKS_BEHIND // 2))

    async def _catch_up(self) -> None:
        for txid in list(self._told):
            await self._until(txid, "confirmed")

    async def _pay_too_early(self) -> None:
        """What is paid to an address that is watched only afterwards."""
        for _ in range(2):
            self._told[await self._wallet.pay(LATELY_WATCHED)] = ["confirmed"]
            await self._wallet.mine()
        await self._wallet.rpc("anvil_mine", hex(SETTLE_DEPTH))

    async def _rescan(self) -> None:
        """Watched once the head has passed, and found by the order only."""
        tip = int(await self._wallet.rpc("eth_blockNumber"), 16)
        journal = await self._wallet.journal()
        await journal.until(Topic.STATE_SYNC, lambda seen: any(passed(each, tip) for each in seen))
        await watch(self._wallet, LATELY_WATCHED)
        self._accounts += 1
        rescan = await order(self._wallet, type="rescan", from_block=0, to_block=tip - SETTLE_DEPTH)
        done = await outcome(self._wallet, rescan)
        assert (done.status, done.published) == (OrderStatus.DONE, len(self._told))
        for txid in list(self._told):
            await self._until(txid, "confirmed")

    async def _outlive_a_renewal(self) -> None:
        await eventually(self._patient.has_renewed, bool)

    async def _go_on(self) -> None:
        """The fault is over, and both the woken and his second, or the one started again, live through some more."""
        await eventually(self._patient.has_recovered, bool)
        if self._fault.role is Role.COMMAND:
            await self._send_more_commands()
        else:
            txid = await self._wallet.pay(self._address)
            await self._wallet.mine()
            await self._until(txid, "detected")

    async def _until(self, txid: str, *statuses: str) -> None:
        self._told[txid] = list(statuses)
        journal = await self._wallet.journal()
        await journal.until(Topic.TRANSACTION, lambda _: len(self._statuses(journal, txid)) >= len(statuses))
        assert self._statuses(journal, txid) == list(statuses)

    def _statuses(self, journal: Journal, txid: str) -> list[str]:
        events = [each.json() for each in journal.of(Topic.TRANSACTION)]
        return [str(event["status"]) for event in events if event["txid"] == txid]

    async def _check(self) -> None:
        """What a `read_committed` reader has seen in the end."""
        journal = await self._wallet.journal()
        await journal.read_to_end()
        events = [each.json() for each in journal.of(Topic.TRANSACTION)]
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        assert {txid: self._statuses(journal, txid) for txid in self._told} == self._told
        assert len(events) == sum(map(len, self._told.values()))
        assert len({(event["txid"], event["event_id"]) for event in events}) == len(self._told)

        replies = journal.of(Topic.ADDRESS_CREATED)
        assert len({reply.key for reply in replies}) == len(replies) == self._accounts
        assert len(journal.of(Topic.ERRORS)) == self._refused
        self._check_checkpoints(journal)
        await self._check_repeated_bytes()

    def _check_checkpoints(self, journal: Journal) -> None:
        states = journal.of(Topic.STATE_SYNC)
        assert [each.key for each in states].count(IDENTITY_KEY) == 1
        checkpoints = [each.json() for each in states if each.key == CHECKPOINT_KEY]
        forks = sum(statuses.count("orphaned") for statuses in self._told.values())
        for before, after in itertools.pairwise(checkpoints):
            assert after["sequence"] >= before["sequence"]
            assert after["base"]["number"] >= before["base"]["number"]
            if after["tip"]["number"] < before["tip"]["number"]:
                forks -= 1
                assert after["sequence"] > before["sequence"]
        assert forks == 0
        if self._fault.role is not Role.COMMAND:
            assert checkpoints[-1]["sequence"] == sum(map(len, self._told.values()))

    async def _check_repeated_bytes(self) -> None:
        """Whatever was written twice, and aborted once, says the same of an address."""
        async with read_uncommitted(self._wallet) as raw:
            await raw.read_to_end()
        said = {(each.key, each.value) for each in raw.of(Topic.ADDRESS_CREATED)}
        assert len(said) == len({key for key, _ in said}) == self._accounts


def passed(record: Seen, number: int) -> bool:
    """Whether a record of the state is a checkpoint at or above a block."""
    return record.key == CHECKPOINT_KEY and int(record.json()["tip"]["number"]) >= number


# --- the enumeration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is counted in which role."""

    role: Role
    counted: frozenset[str]
    expected: frozenset[str]
    """Some effects that its story must have had."""
    story: str = "head"
    starts_late: bool = False


SYNC_EFFECTS = frozenset({"ledger.recover", "ledger.append", "producer.start", "producer.send_batch"})
OFFERING_EFFECTS = SYNC_EFFECTS | {f"board.{effect}" for effect in ("open", "post", "take", "close")}
SCANNING_EFFECTS = frozenset({"board.claim", "board.put_back"})
CASES: Mapping[str, Case] = {
    "bootstrap": Case(
        Role.BOOTSTRAP,
        WORK_EFFECTS,
        frozenset({"topics.create", "ledger.recover", "ledger.append", "producer.commit_transaction"}),
    ),
    "command": Case(
        Role.COMMAND,
        WORK_EFFECTS,
        frozenset({"queue.start", "queue.commit", "producer.start", "producer.send_offsets_to_transaction"}),
    ),
    "sync": Case(Role.SYNC, WORK_EFFECTS, SYNC_EFFECTS),
    "sync that starts each producer inside its append": Case(Role.SYNC, WORK_EFFECTS, SYNC_EFFECTS, starts_late=True),
    "sync that catches up": Case(Role.SYNC, WORK_EFFECTS, OFFERING_EFFECTS, story="behind"),
    "sync that scans spans": Case(Role.SYNC, SCANNER_EFFECTS, SCANNING_EFFECTS, story="behind"),
    "sync that carries out an order": Case(Role.SYNC, WORK_EFFECTS, SYNC_EFFECTS, story="order"),
} | {f"sync's {effect}": Case(Role.SYNC, frozenset({effect}), frozenset({effect})) for effect in sorted(LOCK_EFFECTS)}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("action", ["kill", "stop"])
@pytest.mark.parametrize("case", CASES)
async def test_every_effect(
    case: str,
    action: str,
    when: str,
    tmp_path: Path,
    kafka: Kafka,
    redis_server: Redis,
    chains: list[Anvil],
    fork: Launch,
    say: Say,
) -> None:
    """Nothing is lost, doubled or out of order, whichever effect the worker is killed or stopped at."""
    chosen = CASES[case]
    numbers = itertools.count(1)
    found: dict[int, str | None] = {}

    async def tell_one_after_another(chain: Anvil) -> None:
        while None not in found.values():
            fault = Fault(chosen.role, chosen.counted, action, when, next(numbers), chosen.story, chosen.starts_late)
            assert fault.at <= EFFECTS_MAX
            found[fault.at] = await tell(fault, tmp_path / str(fault.at), kafka, redis_server, chain, fork)

    began = time.monotonic()
    at_once = WAITING_STORIES_AT_ONCE if chosen.role is Role.COMMAND else STORIES_AT_ONCE
    async with asyncio.TaskGroup() as group:
        for _, chain in zip(range(at_once), itertools.cycle(chains), strict=False):
            group.create_task(tell_one_after_another(chain))
    effects = Counter(name for name in found.values() if name is not None)
    parts = ", ".join(f"{count} {name}" for name, count in sorted(effects.items()))
    say(f"{case}, {action} {when}: {effects.total()} effects in {time.monotonic() - began:.0f} s ({parts})")
    assert chosen.expected <= effects.keys()


async def tell(fault: Fault, directory: Path, kafka: Kafka, redis: Redis, chain: Anvil, fork: Launch) -> str | None:
    if fault.role is not Role.COMMAND:  # whose stories share their chains, and mine nothing
        await asyncio.to_thread(chain.rpc, "anvil_reset")
    changes = {"spec": {"kafka": {"partitions": 1}, "tuning": TUNING}}
    async with running_wallet(directory, kafka, redis, chain, launch=fork, changes=changes) as wallet:
        try:
            return await Story(wallet, fault, fork).tell()
        except BaseException as error:
            error.add_note(f"{fault.role} {fault.action} {fault.when} effect {fault.at}: logs in {directory}")
            raise


# --- the sleeper ------------------------------------------------------------------------------------------------------


SLEEPS: Mapping[str, tuple[str, bool]] = {
    "before it starts the next producer": ("producer.start", False),
    "before an append": ("ledger.append", False),
    "in an append, before its producer's start": ("producer.start", True),
    "in an append, after its producer's start": ("producer.send_batch", True),
    "before a send": ("producer.send_batch", False),
    "before a commit": ("producer.commit_transaction", False),
}
"""The effect before whose second time it falls asleep, and whether it starts each producer inside its append."""


@pytest.mark.parametrize("sleep", SLEEPS)
async def test_a_leader_that_overslept_writes_nothing(
    sleep: str,
    tmp_path: Path,
    kafka: Kafka,
    redis_server: Redis,
    chains: list[Anvil],
    fork: Launch,
) -> None:
    """Asleep behind the look at its deadline, it wakes when another has led on: not even an aborted record is added."""
    chain = chains[0]
    await asyncio.to_thread(chain.rpc, "anvil_reset")
    effect, starts_late = SLEEPS[sleep]
    fault = Fault(Role.SYNC, frozenset({effect}), "stop", "before", 2, starts_late=starts_late)
    changes = {"spec": {"kafka": {"partitions": 1}, "tuning": TUNING}}
    async with running_wallet(tmp_path, kafka, redis_server, chain, launch=fork, changes=changes) as wallet:

        def launch(role: Role, variables: Mapping[str, str], log: Path) -> WorkerProcess:
            return fork(role, {**variables, **fault.variables(tmp_path / "effects")}, log)

        await wallet.bootstrap()
        wallet.start(Role.COMMAND)
        address = await wallet.create_account()
        sleeper = wallet.start(Role.SYNC, launch=launch)
        if (effect, starts_late) != ("producer.start", False):  # which comes before any deposit
            await sleeper.until(lambda said: said["reason"] == "Working")
        txid = await wallet.pay(address)
        await wallet.mine()
        await eventually(stopped(sleeper), bool)

        second = wallet.start(Role.SYNC)
        await wallet.events("detected")
        await wallet.rpc("anvil_mine", hex(CONFIRMATION_DEPTH - 1))
        await wallet.events("detected", "confirmed")
        async with read_uncommitted(wallet) as raw:
            ends = await raw.raw_ends()
            sleeper.process.signal(signal.SIGCONT)
            await eventually(given_up(sleeper), bool)
            assert await raw.raw_ends() == ends

        later = await wallet.pay(address)
        await wallet.mine()
        events = await wallet.events("detected", "confirmed", "detected")
        assert [event["txid"] for event in events] == [txid, txid, later]
        assert (await second.status())["sequence"] == len(events)


def stopped(worker: Worker) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return worker.is_stopped()

    return look


def given_up(worker: Worker) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return bool(worker.logged("not_leading"))

    return look


@asynccontextmanager
async def read_uncommitted(wallet: Wallet) -> AsyncIterator[Journal]:
    """Sees what is open and what was aborted, too."""
    journal = Journal(wallet.kafka.bootstrap_servers, wallet.prefix, wallet.partitions, isolation="read_uncommitted")
    await journal.start()
    try:
        yield journal
    finally:
        await journal.stop()
