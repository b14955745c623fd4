"""The broker of the simulation: the fake one, with a clock, a coordinator, and commits that come late.

**Late EndTxn.** The request of a commit may be on its way while its sender already gave up. It then comes to a broker
that has moved on: it settles the transaction if that is still open in the same epoch, and is refused if not.

**Repeated EndTxn.** The request of a commit that succeeded may come again, by another way, when its producer, or a
later one, has begun the next transaction.

After every committed transaction somebody may look at what readers see: `on_commit`.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.faults import Faults
from simulation.trace import Trace, What
from simulation.virtual_loop import VirtualLoop
from wallet_core.errors import KafkaUnreachable
from wallet_core.testing.fake_broker import FakeBroker, FakeGroup, FakeProducer, ProducerFenced

_START_MS = 1_700_000_000_000
LATE_SECONDS = (0.01, 0.3, 2.0, 12.0)
AGAIN_SECONDS = (0.001, 0.05, 1.0)


class SimulatedBroker(FakeBroker):
    """See the module."""

    def __init__(self, loop: VirtualLoop, faults: Faults, trace: Trace) -> None:
        super().__init__()
        self.loop = loop
        self.faults = faults
        self.trace = trace
        self.on_commit: Callable[[], None] = lambda: None
        self._opened: dict[int, float] = {}

    def start_producer(self, transactional_id: str) -> FakeProducer:
        """See FakeBroker."""
        self._connect()
        super().start_producer(transactional_id)  # aborts what is open and takes the next epoch
        return _Producer(self, transactional_id, self._epochs[transactional_id])

    @property
    def transactional_ids(self) -> list[str]:
        """Every id that ever had a producer."""
        return list(self._epochs)

    def tick(self, transaction_timeout_seconds: float) -> None:
        """What the coordinator does now and then: abort what is open for too long, and fence its producer."""
        now = self.loop.time()
        self.timestamp_ms = _START_MS + round(now * 1000)
        self._opened = {id(each): self._opened.get(id(each), now) for each in self._open.values()}
        for transactional_id, transaction in list(self._open.items()):
            if now - self._opened[id(transaction)] > transaction_timeout_seconds:
                self.trace.happened(What.TIMED_OUT, transactional_id)
                super()._abort(transactional_id)
                self._epochs[transactional_id] += 1

    def settle_late(self, commit: Callable[[], None], transactional_id: str) -> None:
        """Carry out a commit that its sender has given up."""
        try:
            commit()
        except (ProducerFenced, KafkaUnreachable):
            self.trace.happened(What.LATE_COMMIT_REFUSED, transactional_id)
        else:
            self.trace.happened(What.LATE_COMMIT_DONE, transactional_id)
            self.on_commit()

    def repeat(self, commit: Callable[[], None], transactional_id: str) -> None:
        """Carry out a commit again."""
        self.trace.happened(What.REPEATED_COMMIT, transactional_id)
        try:
            commit()
        except (ProducerFenced, KafkaUnreachable):
            return
        self.on_commit()

    def epoch(self, transactional_id: str) -> int:
        """How often a producer of this id was started."""
        return self._epochs.get(transactional_id, -1)

    def group(self, name: str) -> FakeGroup:
        """See FakeBroker."""
        self._connect()
        return self.groups.setdefault(name, _Group(self.trace))

    def _abort(self, transactional_id: str) -> None:
        if transactional_id in self._open:
            self.trace.happened(What.ABORTED, transactional_id)
        super()._abort(transactional_id)


class _Group(FakeGroup):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def poll(self, member: str, now: float, *, busy: bool) -> tuple[int, int, int] | None:
        before = self._generation
        share = super().poll(member, now, busy=busy)
        if before and self._generation > before:
            self._trace.happened(What.REBALANCED)
        return share


class _Producer(FakeProducer):
    _world: SimulatedBroker

    def __init__(self, broker: SimulatedBroker, transactional_id: str, epoch: int) -> None:
        super().__init__(broker, transactional_id, epoch)
        self._world = broker
        self._name = transactional_id

    def commit(self) -> None:
        """See FakeProducer."""
        broker = self._world
        if broker.faults.happens(broker.faults.rates.late_commit):
            seconds = broker.faults.choose(LATE_SECONDS)
            broker.trace.add(f"LATE COMMIT of {self._name} by {seconds} s")
            broker.loop.later(seconds, lambda: broker.settle_late(super(_Producer, self).commit, self._name))
            raise KafkaUnreachable("simulated: no answer to EndTxn")
        super().commit()
        broker.trace.add(f"committed {self._name}")
        broker.on_commit()
        if broker.faults.happens(broker.faults.rates.repeated_commit):
            again = super().commit
            broker.loop.later(broker.faults.choose(AGAIN_SECONDS), lambda: broker.repeat(again, self._name))
