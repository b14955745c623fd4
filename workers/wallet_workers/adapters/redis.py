"""A lock in Redis with a time to live (port `Lock`), by redis-py's `Lock` and its scripts.

**The deadline.** Redis counts the time to live from when it carries a command out; the holder counts from the moment
*before* the command is sent, by a clock that goes on while the process or the machine sleeps. So the holder's deadline
always lies before Redis lets another in, however long the command or its answer took.

**Lost answers.** One token stands for the whole life of this object. If an acquire succeeded and its answer was lost,
the next one finds the own token in place and takes the lock over again.

Nothing is retried here: the caller tries again in its own rhythm. Every error of Redis, an error answer included
(read-only replica, no memory, wrong password), is `RedisUnreachable`: the lock cannot be had at the moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Iterator

from redis.asyncio import Redis
from redis.asyncio.lock import Lock as ForeignLock
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError

from wallet_core.errors import RedisUnreachable, WalletError
from wallet_core.ports import Clock

PING_TIMEOUT_SECONDS = 5.0
"""For one answer of Redis where no lock sets a shorter one."""

_OWN_ERROR: tuple[tuple[type[BaseException], type[WalletError]], ...] = (
    (RedisError, RedisUnreachable),
    (OSError, RedisUnreachable),
    (TimeoutError, RedisUnreachable),
)
_FOREIGN_ERRORS = tuple(kind for kind, _ in _OWN_ERROR)


@contextlib.contextmanager
def redis_errors(attempt: str) -> Iterator[None]:
    """Turn redis-py's errors into ours. `attempt` says what was being done, for the message."""
    try:
        yield
    except _FOREIGN_ERRORS as error:
        own = next(own for kind, own in _OWN_ERROR if isinstance(error, kind))
        raise own(f"{attempt}: {type(error).__name__} {error}".rstrip()) from error


def connect(url: str, *, timeout_seconds: float = PING_TIMEOUT_SECONDS) -> Redis:
    """A client that connects when it is first used and gives up after the time-out. Close it with `aclose()`."""
    return Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )


class RedisServer:
    """Whether a Redis answers."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ping(self) -> None:
        """Return where it does. Raises RedisUnreachable."""
        client = connect(self._url)
        try:
            with redis_errors("ping"):
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    await client.ping()
        finally:
            await close_client(client)


class RedisLock:
    """See the module. Not for several tasks at once; `close()` when done."""

    def __init__(self, url: str, *, name: str, ttl_ms: int, clock: Clock) -> None:
        self._clock = clock
        self._ttl_seconds = ttl_ms / 1000
        self._timeout_seconds = self._ttl_seconds / 4  # below the rhythm of renewals, a third of the time to live
        self._client = connect(url, timeout_seconds=self._timeout_seconds)
        self._lock = ForeignLock(self._client, name, timeout=self._ttl_seconds, thread_local=False)
        self._token = uuid.uuid4().hex.encode()
        self._deadline = -math.inf
        """By the clock's `monotonic`, in seconds."""

    async def acquire(self) -> bool:
        """Try once. True where this process now holds the lock. Raises RedisUnreachable."""
        sent_at = self._clock.monotonic()
        with redis_errors("acquiring the lock"):
            async with asyncio.timeout(self._timeout_seconds):
                held = await self._lock.acquire(blocking=False, token=self._token)
        if not held:
            return await self.renew()
        self._deadline = sent_at + self._ttl_seconds
        return True

    async def renew(self) -> bool:
        """Extend the time to live. False where the lock belongs to somebody else by now. Raises RedisUnreachable."""
        sent_at = self._clock.monotonic()
        self._lock.local.token = self._token  # it may be ours without redis-py knowing: the answer was lost
        try:
            with redis_errors("renewing the lock"):
                async with asyncio.timeout(self._timeout_seconds):
                    await self._lock.reacquire()
        except RedisUnreachable as error:
            if not isinstance(error.__cause__, LockError):
                raise
            self._deadline = -math.inf
            return False
        self._deadline = sent_at + self._ttl_seconds
        return True

    def is_held(self) -> bool:
        """Whether the deadline, counted from before the last acquire or renewal was sent, lies ahead."""
        return self._clock.monotonic() < self._deadline

    async def release(self) -> None:
        """Give the lock up, if it is still ours. Never raises: the time to live does the rest."""
        self._deadline = -math.inf
        self._lock.local.token = self._token
        with contextlib.suppress(*_FOREIGN_ERRORS):
            async with asyncio.timeout(self._timeout_seconds):
                await self._lock.release()

    async def close(self) -> None:
        """Close the connection. Releases nothing."""
        await close_client(self._client)


async def close_client(client: Redis) -> None:
    """Close its connections. Never raises."""
    with contextlib.suppress(*_FOREIGN_ERRORS):
        await client.aclose()
