"""What keeps the processes alive, and what ends them: the kubelet and the nemesis.

The kubelet starts what a wallet needs and starts it again after a while, wherever a process ended or crashed. The
nemesis makes the faults that last: a broker or a Redis that is away or was wiped, a lost state topic, processes that
sleep, are told to stop, are doubled, or get newer settings; and those of nodes (`node_faults`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from simulation.miner import Miner
from simulation.node_faults import SECONDS, NodeFaults
from simulation.promises import Promises
from simulation.story import Story
from simulation.trace import What
from simulation.wallet import Plant, WalletProcess, World
from simulation.wallet_resource import STATE_TOPIC, change
from wallet_core.settings import Role

COORDINATOR_SECONDS = 0.5
PROCESSES_MAX = 40
"""At once: more find nothing that fewer do not, and a seed would not end."""


class Kubelet:
    """Keeps the wanted number of processes of each role running."""

    def __init__(self, world: World, plant: Plant) -> None:
        self._world = world
        self._plant = plant
        self._choice = random.Random(world.choice.random())
        self._numbers = dict.fromkeys(Role, 0)
        self.processes: list[WalletProcess] = []
        self.wanted = {Role.COMMAND: self._choice.randint(1, 2), Role.SYNC: self._choice.choice((1, 2, 2, 3))}
        world.asked = lambda: [process.node for process in self.alive() if process.node is not None]
        self.patience = self._choice.choice((1.0, 1.0, 30.0))
        """Seconds until a process that ended is started again, at most."""

    def alive(self) -> list[WalletProcess]:
        """All that have neither ended nor crashed."""
        return [process for process in self.processes if not process.ended and not process.crashed]

    def start(self, role: Role) -> WalletProcess:
        """Start one more process."""
        self._numbers[role] += 1
        process = WalletProcess(self._world, role, self._numbers[role], self._plant)
        self.processes.append(process)
        process.begin()
        return process

    async def bootstrap_until_done(self) -> None:
        """As the Job does: again and again, until one run ends well."""
        while True:
            process = self.start(Role.BOOTSTRAP)
            while not process.ended and not process.crashed:  # noqa: ASYNC110 - as the Job's controller does
                await asyncio.sleep(0.2)
            if process.ended and process.succeeded:
                return
            await asyncio.sleep(self._choice.uniform(0.1, self.patience))

    async def keep(self, role: Role) -> None:
        """Keep a role's processes running, of the newest settings after a while, for ever."""
        while True:
            running = [process for process in self.alive() if process.role is role]
            if len(running) < self.wanted[role]:
                self.start(role)
            for process in running[:1]:
                if role is Role.SYNC and process.generation < self._world.generation and process.stopping is not None:
                    process.stopping.request()  # a rolling update: the eldest goes first
            await asyncio.sleep(self._choice.uniform(0.1, self.patience))


class Nemesis:
    """The lasting faults of one seed."""

    def __init__(self, world: World, kubelet: Kubelet, story: Story, miner: Miner, promises: Promises) -> None:
        self._world = world
        self._kubelet = kubelet
        self._story = story
        self._promises = promises
        self._choice = random.Random(world.choice.random())
        self._seconds = self._choice.choice((1.0, 3.0, 10.0, 1000.0))
        self._node_faults = NodeFaults(world, miner, self._choice, self._for_a_while)
        self._losses_left = self._choice.choice((0, 0, 0, 1))
        deeds = [
            self._crash,
            self._crash,
            self._sleep,
            self._sleep,
            self._stop,
            self._double,
            self._roll_out,
            self._bootstrap,
            self._kafka_away,
            self._fence,
            self._redis_away,
            self._redis_wiped,
            self._redis_lost_answer,
            self._commands,
            self._lose_state,
            *self._node_faults.deeds(),
        ]
        self._deeds = self._choice.sample(deeds, self._choice.randint(1, len(deeds)))
        if self._choice.random() < 0.7:
            self._deeds += [*self._node_faults.deeds_against_quorum()] * 2
        miner.on_blocks = self._node_faults.release_stuck_nodes
        miner.is_down = lambda: not any(process.is_leader and process.running for process in kubelet.alive())

    async def rage(self) -> None:
        """One deed after the other, until the faults are over."""
        while not self._world.faults.over:
            await asyncio.sleep(self._choice.expovariate(1 / self._seconds))
            if not self._world.faults.over:
                self._choice.choice(self._deeds)()

    async def coordinate(self) -> None:
        """The broker's own timer."""
        timeout = self._world.resource.spec.tuning.transaction_timeout_seconds
        while True:
            self._world.broker.tick(timeout)
            await asyncio.sleep(COORDINATOR_SECONDS)

    def heal(self) -> None:
        """End every fault."""
        world = self._world
        world.trace.add("THE FAULTS ARE OVER")
        world.faults.over = True
        world.broker.reachable = True
        world.redis.reachable = True
        world.redis.loses_next_answer = False
        self._kubelet.patience = 1.0
        for process in self._kubelet.alive():
            process.thaw()
        self._node_faults.mend_all()

    def _for_a_while(
        self,
        what: What,
        begin: Callable[[], None],
        end: Callable[[], None],
        offered_seconds: Sequence[float] = SECONDS,
    ) -> None:
        seconds = self._choice.choice(offered_seconds)
        self._world.trace.happened(what, f"for {seconds} s")
        begin()
        self._world.loop.later(seconds, end)

    # --- processes ------------------------------------------------------------------------------------------------

    def _victim(self) -> WalletProcess | None:
        alive = self._kubelet.alive()
        return self._choice.choice(alive) if alive else None

    def _crash(self) -> None:
        if victim := self._victim():
            self._world.trace.happened(What.CRASH_ANYWHERE, victim.name)
            victim.crash()

    def _sleep(self) -> None:
        if victim := self._victim():
            self._world.faults.put_to_sleep(victim, "the nemesis's wish")

    def _stop(self) -> None:
        victim = self._victim()
        if victim and victim.stopping is not None:
            self._world.trace.happened(What.STOP, victim.name)
            victim.stopping.request()

    def _double(self) -> None:
        if len(self._kubelet.alive()) >= PROCESSES_MAX:
            return
        self._world.trace.happened(What.DOUBLE)
        self._kubelet.start(self._choice.choice((Role.COMMAND, Role.SYNC)))

    def _roll_out(self) -> None:
        self._world.document = change(self._world.document, self._choice, self._world.trace)
        self._world.generation += 1
        self._world.trace.happened(What.ROLL_OUT, f"generation {self._world.generation}")
        if len(self._kubelet.alive()) < PROCESSES_MAX:
            self._kubelet.start(Role.SYNC)

    def _bootstrap(self) -> None:
        self._kubelet.start(Role.BOOTSTRAP)

    def _commands(self) -> None:
        for _ in range(self._choice.randint(1, 20)):
            self._story.send_command()

    # --- Kafka and Redis ------------------------------------------------------------------------------------------

    def _kafka_away(self) -> None:
        def set_reachable(reachable: bool) -> None:
            self._world.broker.reachable = reachable

        self._for_a_while(What.KAFKA_AWAY, lambda: set_reachable(False), lambda: set_reachable(True))

    def _fence(self) -> None:
        broker = self._world.broker
        if broker.reachable and (known := broker.transactional_ids):
            fenced = self._choice.choice(known)
            self._world.trace.happened(What.FENCED, fenced)
            broker.start_producer(fenced)

    def _redis_away(self) -> None:
        def set_reachable(reachable: bool) -> None:
            self._world.redis.reachable = reachable

        self._for_a_while(What.REDIS_AWAY, lambda: set_reachable(False), lambda: set_reachable(True))

    def _redis_wiped(self) -> None:
        self._world.trace.happened(What.REDIS_WIPED)
        self._world.redis.wipe()

    def _lose_state(self) -> None:
        """The state topic is deleted; a wallet that never said anything would just begin anew."""
        broker, steps = self._world.broker, self._promises.steps
        if not self._losses_left or not broker.reachable or steps.before is None or not self._promises.published:
            return
        self._losses_left -= 1
        self._world.trace.happened(What.CHECKPOINT_LOST)
        self._promises.look()
        broker.delete_topic(STATE_TOPIC)
        self._promises.state_lost()

    def _redis_lost_answer(self) -> None:
        self._world.trace.counts[What.REDIS_ANSWER_LOST] += 1
        self._world.redis.loses_next_answer = True
