"""The machine's time (port `Clock`).

`CLOCK_BOOTTIME`, where the system has it, goes on while the machine is suspended; Python's `time.monotonic`
(CLOCK_MONOTONIC) stands still then, and a holder that wakes from a suspension would think its lock as young as before.
Both go on under SIGSTOP.
"""

from __future__ import annotations

import asyncio
import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """See the module."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.clock_gettime(_CLOCK)

    def unix_time(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Let others run for about that long."""
        await asyncio.sleep(seconds)
