"""An event loop that has no world: time is a number, and what runs next is a seeded choice.

The wallet's loops run on it unchanged. Three things differ from asyncio's own loops:

- **Time** stands still while anything can run, and then jumps to the next timer. An hour costs nothing.
- **Order.** asyncio runs what is ready first in, first out. Here any of it may come next, as the seed says: tasks that
  nothing makes wait for one another interleave in every way.
- **Processes.** Everything that runs belongs to the process that started it, by a context variable which tasks and
  callbacks inherit. A frozen process keeps all that it has to do, while time and the others go on; a crashed one is
  frozen for ever. None of its `finally` blocks run: that is what `kill -9` means.

`looptime` (PyPI) has the first of the three only. Nothing may depend on where objects lie in memory, else a seed would
not replay: tasks and futures therefore hash by a running number, for asyncio keeps them in sets.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)

_Work = tuple[asyncio.Handle, contextvars.Context, Callable[..., object], tuple[Any, ...]]


class Pause:
    """`await Pause()` lets anything else run first."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Process:
    """What sleeps and dies as one. Work that belongs to none is the world's and never stops."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.crashed = False
        self._loop = loop
        self._frozen = False
        self._held: list[_Work] = []

    @property
    def running(self) -> bool:
        """Whether it is neither frozen nor crashed."""
        return not self._frozen and not self.crashed

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this, and all that it starts, as this process."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return self._loop.create_task(work, name=self.name, context=context)

    def freeze(self) -> None:
        """Nothing of it runs until `thaw`."""
        self._frozen = True

    def thaw(self) -> None:
        """Go on with everything that became due meanwhile. Nothing for a crashed process."""
        self._frozen = False
        if not self.crashed:
            self._release()

    def crash(self) -> None:
        """Nothing of it ever runs again."""
        self.crashed = True

    def bury(self) -> None:
        """Let what is left of a crashed process run, so that its tasks can end. Only when the world is over."""
        self.crashed = False
        self.thaw()

    def hold(self, work: _Work) -> None:
        """Keep what it would do now."""
        self._held.append(work)

    def _release(self) -> None:
        held, self._held = self._held, []
        self._loop.make_ready(held)


def current_process() -> Process | None:
    """The process that runs at the moment; None for the world."""
    return _PROCESS.get()


class _Future(asyncio.Future[Any]):
    number = 0

    def __hash__(self) -> int:
        return self.number


class _Task(asyncio.Task[Any]):
    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module. `run_while` runs it; nothing else does."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._now = 0.0
        self._ready: list[_Work] = []
        self._timers: list[tuple[float, int, _Work]] = []
        self._numbers = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.steps = 0
        """How many callbacks ran."""
        self.complaints: list[str] = []
        """Exceptions that nobody took, by asyncio's exception handler."""

    def run_while(self, going_on: Callable[[], bool], steps_max: int) -> None:
        """Run as long as the condition holds. Raises OutOfSteps, which is how a loop without end is found."""
        asyncio._set_running_loop(self)
        try:
            last = self.steps + steps_max
            while going_on():
                if self.steps >= last:
                    raise OutOfSteps(f"{steps_max} callbacks were not enough; the time is {self._now:.3f}")
                self._run_one()
        finally:
            asyncio._set_running_loop(None)

    def make_ready(self, works: list[_Work]) -> None:
        """Let these run, each when the seed says so."""
        self._ready.extend(works)

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Let the world do something, whatever becomes of the process that asks for it."""
        self.call_later(seconds, do, context=contextvars.Context())

    def start_in_world(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something that belongs to no process."""
        return self.create_task(work, name=name, context=contextvars.Context())

    def end_all_tasks(self, steps_max: int = 100_000) -> None:
        """Cancel every task until none is left."""
        rounds = 0

        def some_are_left() -> bool:
            nonlocal rounds
            self._tasks = {task: None for task in self._tasks if not task.done()}
            if self._tasks and (not self._ready or rounds == 0):
                rounds += 1
                for task in self._tasks:
                    task.cancel()
            return bool(self._tasks) and rounds < 100

        self.run_while(some_are_left, steps_max)

    def _run_one(self) -> None:
        ready = self._ready
        if not ready:
            self._pass_time()
        if len(ready) > 1:
            at = int(self._choice.random() * len(ready))
            ready[at], ready[-1] = ready[-1], ready[at]
        work = ready.pop()
        handle, context, callback, arguments = work
        if handle._cancelled:
            return
        process = context.get(_PROCESS)
        if process is not None and (process._frozen or process.crashed):
            process.hold(work)
            return
        self.steps += 1
        try:
            context.run(callback, *arguments)
        except Exception as error:  # noqa: BLE001 - a callback's error is nobody's; asyncio hands it to the handler too
            self.complaints.append(f"{callback}: {error!r}")

    def _pass_time(self) -> None:
        if not self._timers:
            raise OutOfSteps("everything waits for something that nothing will do")
        when, _, work = heapq.heappop(self._timers)
        self._now = max(self._now, when)
        self._ready.append(work)
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])

    # --- what asyncio asks of a loop ------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(  # type: ignore[override]  # typeshed's variadic form adds nothing here
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        context = contextvars.copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((handle, context, callback, args))
        return handle

    def call_at(  # type: ignore[override]  # typeshed's variadic form adds nothing here
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        context = contextvars.copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self._next_number(), (handle, context, callback, args)))
        return handle

    def call_later(  # type: ignore[override]  # typeshed's variadic form adds nothing here
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        future = _Future(loop=self)
        future.number = self._next_number()
        return future

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **_more: Any) -> asyncio.Task[Any]:
        """See asyncio."""
        task: _Task = _Task.__new__(_Task)
        task.number = self._next_number()  # before asyncio puts it into its sets
        task.__init__(coro, loop=self, name=name, context=context)  # type: ignore[misc]  # numbered before it begins
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return True

    def is_closed(self) -> bool:
        """See asyncio."""
        return False

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers stay in the heap until their time, as `cancelled` is looked at then."""


# What no simulated world needs (sockets, signals, threads, subprocesses) stays as AbstractEventLoop has it: it raises.


class OutOfSteps(Exception):
    """The loop cannot go on, or goes on for ever."""
