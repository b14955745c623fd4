"""A Redis that several processes share, and the lock they share it for."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from wallet_core.errors import RedisUnreachable
from wallet_core.ports import Clock

_T = TypeVar("_T")


class FakeRedis:
    """Keys with a time to live, counted by its own clock. `reachable` and `loses_next_answer` make it fail."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[str, tuple[str, float]] = {}
        self.reachable = True
        self.loses_next_answer = False
        """The next command is carried out, and its sender told that Redis is unreachable."""
        self.tokens = count(1)
        self.structures: dict[str, object] = {}
        """By key, what other fakes keep in this Redis."""

    def run(self, script: Callable[[], _T]) -> _T:
        """EVAL: the script's steps happen together or not at all."""
        self._connect()
        return self._answer(script())

    def get(self, name: str) -> str | None:
        """The value, None where there is none or its time is over."""
        self._connect()
        value, until = self._keys.get(name, (None, -math.inf))
        return self._answer(value if self._clock.monotonic() < until else None)

    def set_if_absent(self, name: str, value: str, ttl_seconds: float) -> bool:
        """SET NX PX."""
        self._connect()
        free = self._keys.get(name, ("", -math.inf))[1] <= self._clock.monotonic()
        if free:
            self._keys[name] = (value, self._clock.monotonic() + ttl_seconds)
        return self._answer(free)

    def extend_if_equal(self, name: str, value: str, ttl_seconds: float) -> bool:
        """Set the time to live where the key holds this value."""
        self._connect()
        held, until = self._keys.get(name, ("", -math.inf))
        equal = held == value and self._clock.monotonic() < until
        if equal:
            self._keys[name] = (value, self._clock.monotonic() + ttl_seconds)
        return self._answer(equal)

    def delete_if_equal(self, name: str, value: str) -> bool:
        """Delete the key where it holds this value."""
        self._connect()
        equal = self._keys.get(name, ("", 0.0))[0] == value
        if equal:
            del self._keys[name]
        return self._answer(equal)

    def wipe(self) -> None:
        """FLUSHALL, or a restart without persistence."""
        self._keys.clear()
        self.structures.clear()

    def _connect(self) -> None:
        if not self.reachable:
            raise RedisUnreachable("the fake Redis is down")

    def _answer(self, answer: _T) -> _T:
        lost, self.loses_next_answer = self.loses_next_answer, False
        if lost:
            raise RedisUnreachable("the answer was lost")
        return answer


class FakeLock:
    """Port `Lock` on a FakeRedis. One object stands for one process."""

    def __init__(self, redis: FakeRedis, *, name: str, ttl_ms: int, clock: Clock) -> None:
        self._redis = redis
        self._name = name
        self._ttl_seconds = ttl_ms / 1000
        self._clock = clock
        self._token = f"token-{next(redis.tokens)}"
        self._deadline = -math.inf

    async def acquire(self) -> bool:
        """Try once; an own token whose answer was lost counts."""
        sent_at = self._clock.monotonic()
        if not self._redis.set_if_absent(self._name, self._token, self._ttl_seconds):
            return await self.renew()
        self._deadline = sent_at + self._ttl_seconds
        return True

    async def renew(self) -> bool:
        """Extend the time to live. False where the lock belongs to somebody else by now."""
        sent_at = self._clock.monotonic()
        held = self._redis.extend_if_equal(self._name, self._token, self._ttl_seconds)
        self._deadline = sent_at + self._ttl_seconds if held else -math.inf
        return held

    def is_held(self) -> bool:
        """Whether the deadline lies ahead."""
        return self._clock.monotonic() < self._deadline

    async def release(self) -> None:
        """Give the lock up, if it is still ours."""
        self._deadline = -math.inf
        try:
            self._redis.delete_if_equal(self._name, self._token)
        except RedisUnreachable:
            return
