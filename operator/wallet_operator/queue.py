"""Which wallets to look at: every wallet at most once, and never two looks at one wallet at the same time.

Whoever notices something adds the wallet's key, as often as it likes. `take` hands out a key that nobody works on; what
is added meanwhile is kept until `done`. A wallet can also be added for later; of several such wishes of one kind the
earliest holds.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum

from wallet_operator.kinds import Key


class Ask(IntEnum):
    """How much is asked for; the larger includes the smaller."""

    LOOK = 1
    """Ask the workers, write the status, and apply only what visibly differs."""
    RECONCILE = 2
    """The same, and apply everything."""


class Queue:
    """See the module. Its length is at most the number of wallets."""

    def __init__(self) -> None:
        self._waiting: dict[Key, Ask] = {}  # in order of arrival
        self._active: set[Key] = set()
        self._timers: dict[tuple[Key, Ask], asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, ask: Ask) -> None:
        """Look at a wallet as soon as possible."""
        self._waiting[key] = max(ask, self._waiting.get(key, ask))
        for which in (Ask.LOOK, Ask.RECONCILE):
            if which <= ask and (timer := self._timers.pop((key, which), None)):
                timer.cancel()
        self._changed.set()

    def add_later(self, key: Key, ask: Ask, seconds: float) -> None:
        """Look at a wallet after a while, unless it is looked at as thoroughly before."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get((key, ask))
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key, ask] = loop.call_later(seconds, self._due, key, ask)

    def _due(self, key: Key, ask: Ask) -> None:
        self._timers.pop((key, ask), None)
        self.add(key, ask)

    async def take(self) -> tuple[Key, Ask]:
        """The next wallet that nobody works on; say `done` when it has been looked at."""
        while True:
            self._changed.clear()
            for key, ask in self._waiting.items():
                if key not in self._active:
                    del self._waiting[key]
                    self._active.add(key)
                    return key, ask
            await self._changed.wait()

    def done(self, key: Key) -> None:
        """The wallet may be handed out again."""
        self._active.discard(key)
        self._changed.set()

    def forget(self, key: Key) -> None:
        """The wallet is gone: nothing is due for it any more."""
        for which in Ask:
            if timer := self._timers.pop((key, which), None):
                timer.cancel()

    def __len__(self) -> int:
        return len(self._waiting)
