"""Virtual time: an event loop whose clock jumps to the next timer whenever nothing can run.

Hours pass in milliseconds, in the same order on every machine, for `asyncio.sleep` and `asyncio.timeout` alike. A test
in which every task waits for something that nobody will do fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from wallet_core.testing.fake_chain import GENESIS_TIMESTAMP

PATIENCE_SECONDS = 600.0
"""Virtual time after which a condition will never hold."""

_P = ParamSpec("_P")


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: what the loop would have waited is added to its time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("every task waits for something that nobody will do")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Starts at 0 seconds."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class LoopClock:
    """Port `Clock` by the time of the running loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def unix_time(self) -> float:
        return GENESIS_TIMESTAMP + self.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def in_virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an asynchronous test in a virtual-time loop of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def until(condition: Callable[[], object]) -> None:
    """Let others run until something holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_SECONDS
    while not condition():
        assert loop.time() < end, "the condition never came to hold"
        await asyncio.sleep(0.01)
