"""One seed from its first block to its last event.

Three acts: the wallet is set up and used while things go wrong; the faults end, and the chain grows a little so
that what is unconfirmed can be confirmed; then the wallet has `CATCHING_UP_SECONDS_MAX` to have said and done
everything, and says nothing more. The promises are checked after every committed transaction.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from simulation.broker import SimulatedBroker
from simulation.faults import Faults
from simulation.history import History
from simulation.miner import Miner
from simulation.nemesis import Kubelet, Nemesis
from simulation.on_call import OnCall
from simulation.payments import Payments
from simulation.promises import Promises, Terms
from simulation.steps import Broken
from simulation.story import Story
from simulation.trace import Trace, What
from simulation.virtual_loop import OutOfSteps, Process, VirtualLoop
from simulation.wallet import NO_BUG, LoopClock, Plant, World
from simulation.wallet_resource import PREFIX, SYMBOLS, account_keys, draw_document
from wallet_core.addresses import lower_hex
from wallet_core.settings import Role
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_redis import FakeRedis

STEPS_MAX = 400_000
"""Callbacks of one seed; ten times what a seed needs."""
CATCHING_UP_SECONDS_MAX = 300.0
"""Longer than any pause that the wallet makes: a halt is looked at again after 60 s."""
FINAL_BLOCKS = 16
"""Beyond the settled depth: more than an order may name above the tip, and than finality is behind."""
GROWTH_SECONDS = 8.0
"""Between blocks while the wallet catches up: an order may wait for what is not settled yet."""
QUIET_SECONDS = 20.0
CHAIN_LENGTHS = (*(0, 5, 40) * 2, 300, 300)
"""Before the wallet is set up; the last is for catching up with."""


class SeedFailed(Exception):
    """A promise was broken; the text names the seed, what broke, and how to see it again."""

    def __init__(self, seed: int, reason: str, events: Sequence[str]) -> None:
        super().__init__(f"seed {seed}: {reason}; see it again: make simulate SEEDS={seed}-{seed}")
        self.events = events
        """The last ones."""


@dataclass(frozen=True)
class Outcome:
    """What one seed came to."""

    digest: str
    """Of the trace: equal for equal runs."""
    seconds: float
    """Virtual."""
    steps: int
    events: int
    """Records on `transaction`."""
    blocks: int
    happened: Mapping[What, int]
    """How often what."""


def simulate(seed: int, plant: Plant = NO_BUG) -> Outcome:
    """Run one seed. Raises SeedFailed."""
    run = _Run(seed, plant)
    with run.logs_in_trace():
        try:
            return run.play()
        except (Broken, OutOfSteps) as error:
            raise SeedFailed(seed, str(error), tuple(run.trace.last)) from error
        finally:
            run.end()


class _Run:
    def __init__(self, seed: int, plant: Plant) -> None:
        choice = random.Random(seed)
        self.loop = VirtualLoop(random.Random(choice.random()))  # type: ignore[abstract]  # see its end
        self.trace = Trace(self.loop)
        faults = Faults(self.loop, random.Random(choice.random()), self.trace)
        faults.on_crash = Process.crash
        clock = LoopClock(self.loop)
        chain = FakeChain()
        broker = SimulatedBroker(self.loop, faults, self.trace)
        length = choice.choice(CHAIN_LENGTHS)
        self.history = History(chain)
        self.history.made(chain.blocks[0], 0)
        self.world = World(
            self.loop,
            choice,
            faults,
            self.trace,
            clock,
            chain,
            self.history,
            broker,
            FakeRedis(clock),
            draw_document(choice, length),
            fail=self._fail,
        )
        self.promises = Promises(
            broker,
            self.history,
            Terms(
                PREFIX,
                chain.chain_id,
                account_keys().xpub,
                account_keys().fingerprint,
                self.world.resource.spec.chain.confirmation.depth,
                SYMBOLS,
                lower_hex(account_keys().gas_address),
                self.world.resource.spec.chain.settle_depth,
            ),
        )
        self.world.published = lambda: list(self.promises.published)
        self.world.is_state_lost = lambda: self.promises.steps.last_tip is not None
        broker.on_commit = self._look
        payments = Payments(chain, self.history, random.Random(choice.random()), lambda: self.promises.published)
        self.miner = Miner(self.world, payments, self.promises)
        self.story = Story(self.world, payments, self.miner, self.promises)
        self.kubelet = Kubelet(self.world, plant)
        self.nemesis = Nemesis(self.world, self.kubelet, self.story, self.miner, self.promises)
        self.on_call = OnCall(self.world, self.kubelet, self.story, self.promises)
        self.broken: Exception | None = None
        for _ in range(length):
            self.miner.make_block()

    def play(self) -> Outcome:
        """The three acts."""
        director = self.loop.start_in_world(self._direct(), "director")
        self.loop.run_while(lambda: not director.done() and self.broken is None, STEPS_MAX)
        if self.broken is not None:
            raise self.broken
        director.result()
        return Outcome(
            self.trace.digest,
            self.loop.time(),
            self.loop.steps,
            self.promises.events,
            len(self.history.blocks),
            dict(self.trace.counts),
        )

    def end(self) -> None:
        """Let every task end, whatever it does to a world that nobody looks at any more."""
        self.world.broker.on_commit = lambda: None
        self.world.faults.over = True
        self.broken = None
        for process in self.kubelet.processes:
            process.bury()
        self.loop.end_all_tasks()

    @contextmanager
    def logs_in_trace(self) -> Iterator[None]:
        """The workers' log lines go into the trace meanwhile."""
        before = structlog.get_config()
        structlog.configure(processors=[self.trace.log_processor], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**before)

    async def _direct(self) -> None:
        world, choice = self.world, self.world.choice
        actors = [
            self.nemesis.coordinate(),
            self.nemesis.rage(),
            self.kubelet.bootstrap_until_done(),
            self.kubelet.keep(Role.COMMAND),
            self.kubelet.keep(Role.SYNC),
            self.on_call.watch(),
        ]
        for actor in actors:
            self._begin(actor)
        users = [self._begin(self.story.use()), self._begin(self.miner.mine())]
        await asyncio.sleep(choice.choice((20.0, 60.0, 120.0)))
        self.nemesis.heal()
        await asyncio.sleep(5.0)
        for user in users:
            user.cancel()
        for _ in range(world.resource.spec.chain.settle_depth + FINAL_BLOCKS):
            self.miner.make_block()
            await asyncio.sleep(choice.choice((0.0, 1.0)))
        await self._caught_up()
        said = self.promises.events
        await asyncio.sleep(QUIET_SECONDS)
        if self.promises.events != said or self.promises.what_is_missing():
            raise Broken("Once: the wallet went on talking after it had said everything")

    async def _caught_up(self) -> None:
        until = self.loop.time() + CATCHING_UP_SECONDS_MAX
        while missing := self.promises.what_is_missing():
            if self.loop.time() > until:
                raise Broken(missing)
            await asyncio.sleep(1.0)
            if self.loop.time() % GROWTH_SECONDS < 1.0:
                self.miner.make_block()

    def _begin(self, actor: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self.loop.create_task(actor)
        task.add_done_callback(self._actor_ended)
        return task

    def _actor_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.broken = self.broken or (error if isinstance(error, Exception) else Broken(repr(error)))

    def _look(self) -> None:
        try:
            self.promises.look()
        except Broken as error:
            self.broken = self.broken or error

    def _fail(self, message: str) -> None:
        self.broken = self.broken or Broken(message)
