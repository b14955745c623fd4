"""How long to leave a failing peer alone: twice as long after each failure in a row, within bounds."""

from __future__ import annotations

BACKOFF_SECONDS_MIN = 1.0
BACKOFF_SECONDS_MAX = 30.0


def backoff_seconds(failures: int) -> float:
    """The pause after that many failures in a row (at least 1)."""
    doublings = min(failures - 1, 16)  # 2 ** 16 is far beyond the maximum already
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2.0**doublings)
