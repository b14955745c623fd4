"""What goes wrong around every effect, as the seed says.

A process meets the world only in its ports, and every call of a port passes through `Faults.around`: it may take its
time, and there the process may crash, fall asleep, or get an error, before the effect or after it (the answer was
lost). Faults that last (a node behind, a broker down) are the nemesis's, in `nemesis.py`.

How often each happens is drawn once a seed: some seeds are calm but for one kind of fault, and those find what the
others would drown in noise.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeVar

from simulation.trace import Trace, What
from simulation.virtual_loop import Pause, Process, VirtualLoop, current_process
from wallet_core.errors import (
    KafkaUnreachable,
    NodeInconsistent,
    RedisUnreachable,
    RpcUnreachable,
    WalletError,
    WrongChain,
)

WRITE_WEIGHT = 10.0
"""Between the steps of a write a fault can do the most harm, so it comes more often."""

_T = TypeVar("_T")

LIES_MAX = 12
"""Of a seed's scanners: they end by their number, for much is caught up with after the other faults are over."""
SLEEP_SECONDS_MAX = 40.0
"""Longer than the locks, the sessions and the transactions of a simulated wallet last."""


@dataclass
class Rates:
    """The chance of each fault, at each effect."""

    crash: float = 0.0
    sleep: float = 0.0
    error: float = 0.0
    lost_answer: float = 0.0
    late_commit: float = 0.0
    repeated_commit: float = 0.0
    slow: float = 0.0
    span_lie: float = 0.0
    """At each result of a span, by a scanner that is out of its mind."""

    @classmethod
    def drawn(cls, choice: random.Random) -> Rates:
        """Rates of one seed."""
        return cls(
            crash=choice.choice((0, 0, 0.0005, 0.003)),
            sleep=choice.choice((0, 0.0005, 0.002, 0.008)),
            error=choice.choice((0, 0, 0.003, 0.02)),
            lost_answer=choice.choice((0, 0, 0.01, 0.05)),
            late_commit=choice.choice((0, 0, 0.02, 0.1)),
            repeated_commit=choice.choice((0, 0, 0.1)),
            slow=choice.choice((0, 0.02, 0.1)),
            span_lie=choice.choice((0, 0.5, 0.9)),
        )


class Faults:
    """The faults of one seed. Once `over`, there are none."""

    ERRORS: Mapping[str, tuple[type[WalletError], ...]] = {
        "node": (RpcUnreachable, NodeInconsistent, WrongChain),
        "kafka": (KafkaUnreachable,),
        "redis": (RedisUnreachable,),
    }

    def __init__(self, loop: VirtualLoop, choice: random.Random, trace: Trace) -> None:
        self._loop = loop
        self._choice = choice
        self._trace = trace
        self.rates = Rates.drawn(choice)
        self.over = False
        self._lies_left = LIES_MAX
        self.on_crash: Callable[[Process], None] = lambda _process: None

    def choose(self, offered: Sequence[_T]) -> _T:
        """One of these."""
        return self._choice.choice(offered)

    def happens(self, rate: float) -> bool:
        """Whether a fault of this rate happens now."""
        return not self.over and rate > 0 and self._choice.random() < rate

    def lies(self) -> bool:
        """Whether a scanner lies now."""
        lies = self._lies_left > 0 and self._choice.random() < self.rates.span_lie
        self._lies_left -= lies
        return lies

    async def pass_time(self) -> None:
        """As long as a message takes: mostly next to nothing."""
        if self.happens(self.rates.slow):
            await asyncio.sleep(self._choice.choice((0.01, 0.1, 0.5, 3.0)))
        else:
            await Pause()

    async def strike(self, what: str, weight: float = 1.0) -> None:
        """The process may crash or fall asleep here; more often by a weight."""
        process = current_process()
        if process is None:
            return
        if self.happens(self.rates.crash * weight):
            self._trace.happened(What.CRASH, what)
            self.on_crash(process)
            await Pause()
        if self.happens(self.rates.sleep * weight):
            self.put_to_sleep(process, what)
            await Pause()

    def put_to_sleep(self, process: Process, where: str) -> None:
        """Freeze a process for a while."""
        seconds = (
            self._choice.uniform(0.1, 2.0)
            if self._choice.random() < 0.5
            else self._choice.uniform(2, SLEEP_SECONDS_MAX)
        )
        self._trace.happened(What.SLEEP, f"{process.name} for {seconds:.1f} s at {where}")
        process.freeze()
        self._loop.later(seconds, process.thaw)

    def may_fail(self, side: str, what: str) -> None:
        """Raise one of the errors that a side of the world may answer with."""
        if self.happens(self.rates.error):
            error = self._choice.choice(self.ERRORS[side])
            self._trace.happened(What(f"{side}: an error"), f"{error.__name__} at {what}")
            raise error(f"simulated at {what}")

    def may_lose_answer(self, side: str, what: str) -> None:
        """The effect took place; whoever asked for it is told that nobody answered."""
        if self.happens(self.rates.lost_answer):
            self._trace.happened(What(f"{side}: a lost answer"), what)
            raise self.ERRORS[side][0](f"simulated: the answer of {what} was lost")


class Interrupted:
    """Any port, with faults around each of its coroutines and streams. Plain methods and properties pass through.

    A stream breaks off before its first batch or behind one that was handed out, for what is fetched and not handed out
    is the port's to hand out again.
    """

    def __init__(
        self,
        port: Any,
        faults: Faults,
        trace: Trace,
        *,
        side: str,
        name: str,
        loses_answers: bool = True,
        spares: tuple[str, ...] = (),
    ) -> None:
        """`spares`: coroutines that promise never to fail."""
        self._port = port
        self._faults = faults
        self._trace = trace
        self._side = side
        self._name = name
        self._loses_answers = loses_answers
        self._spares = spares

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._port, attribute)
        what = f"{self._name}.{attribute}"
        if isasyncgenfunction(found):
            return lambda: self._stream(found(), what)
        if not callable(found):
            return found
        if not iscoroutinefunction(found) or attribute in self._spares:
            self.__dict__[attribute] = found
            return found

        async def interrupted(*arguments: Any, **more: Any) -> Any:
            await self._before(what)
            answer = await found(*arguments, **more)
            await self._faults.pass_time()
            await self._faults.strike(f"the end of {what}")
            if self._loses_answers:
                self._faults.may_lose_answer(self._side, what)
            return answer

        self.__dict__[attribute] = interrupted  # found at once from now on
        return interrupted

    async def _stream(self, batches: AsyncGenerator[Any, None], what: str) -> AsyncIterator[Any]:
        async with aclosing(batches):
            await self._before(what)
            async for batch in batches:
                yield batch
                await self._before(what)

    async def _before(self, what: str) -> None:
        self._trace.add(what)
        await self._faults.pass_time()
        await self._faults.strike(what)
        self._faults.may_fail(self._side, what)
