"""Time that goes on only when it is told to."""

from __future__ import annotations

from collections.abc import Generator


class Pause:
    """`await Pause()` lets other tasks run once, under any event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class FakeClock:
    """Port `Clock`. Sleeping moves the time; nothing else does but `advance`."""

    def __init__(self, unix_time: float = 1_700_000_000.0) -> None:
        self._start = unix_time
        self._elapsed = 0.0

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    def unix_time(self) -> float:
        """Seconds since the Unix epoch."""
        return self._start + self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Move the time, then let others run."""
        self.advance(seconds)
        await Pause()

    def advance(self, seconds: float) -> None:
        """Let that much time pass."""
        self._elapsed += seconds
