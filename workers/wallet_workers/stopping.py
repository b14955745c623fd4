"""The wish to stop, and waiting that gives way to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from wallet_core.ports import Clock

RETRY_SECONDS_MIN = 0.2
RETRY_SECONDS_MAX = 10.0
HALT_RECHECK_SECONDS = 60.0
"""How long a halted worker waits before it looks whether the cause is gone."""


class Stopping:
    """Set once, by SIGTERM or SIGINT; every wait of a loop ends with it."""

    def __init__(self, clock: Clock) -> None:
        self._event = asyncio.Event()
        self._clock = clock

    def request(self) -> None:
        """Ask every loop to end after its current step."""
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        """Until somebody asks."""
        await self._event.wait()

    async def pause(self, seconds: float) -> None:
        """Sleep that long, or until the stop."""
        await self.first_of(self._clock.sleep(seconds))

    async def first_of(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Run a wait that may be given up, until it returns or the stop comes."""
        tasks = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._event.wait())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


class BackOff:
    """Growing pauses between tries at something that fails, from `RETRY_SECONDS_MIN` to `RETRY_SECONDS_MAX`."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self._seconds = RETRY_SECONDS_MIN

    def reset(self) -> None:
        """Begin again with the shortest pause, after a success."""
        self._seconds = RETRY_SECONDS_MIN

    async def pause(self) -> None:
        """Wait, and let the next pause be twice as long."""
        await self._stopping.pause(self._seconds)
        self._seconds = min(self._seconds * 2, RETRY_SECONDS_MAX)
