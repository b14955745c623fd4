"""Whether a tip is stale: too old to believe that the node is current.

Two clocks are asked, for a node may be behind in one and lie in the other:

- the block's own timestamp, against our time of day: an old tip is stale at first sight;
- our monotonic clock, since the tip last rose above every number seen before: a node whose timestamps are false, or in
  the future, is stale once it has stood still for as long. A tip that goes back and comes again has not risen.

A stale tip is a reason to look elsewhere and to say so. It never halts anything: what such a node says of its blocks is
as true as before.
"""

from __future__ import annotations

from wallet_core.blocks import Header


class TipWatch:
    """The tips of one source, one after the other."""

    def __init__(self, stale_after_seconds: float) -> None:
        """0: no tip is ever stale."""
        self._stale_after_seconds = stale_after_seconds
        self._highest = -1
        self._risen_at = 0.0

    def stale_seconds(self, tip: Header, *, unix_time: float, monotonic: float) -> float | None:
        """Note a tip, as seen now; for how many seconds it has been stale by the worse clock, None where it is not."""
        if tip.number > self._highest:
            self._highest, self._risen_at = tip.number, monotonic
        age = max(unix_time - tip.timestamp, monotonic - self._risen_at)
        return age if 0 < self._stale_after_seconds < age else None
