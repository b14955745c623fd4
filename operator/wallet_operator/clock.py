"""The machine's time; nothing else in the operator asks for it."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Port `Clock`."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def unix_time(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Let others run for about that long."""
        await asyncio.sleep(seconds)
