"""What a leader relies on when it holds a lock, on the fake lock and on a real Redis."""

import asyncio
import contextlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import pytest

from devstack.processes import free_port
from devstack.services import Redis
from wallet_core.errors import RedisUnreachable
from wallet_core.ports import Clock
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.testing.fake_redis import FakeLock, FakeRedis
from wallet_workers.adapters.redis import RedisLock, RedisServer, connect
from wallet_workers.adapters.system_clock import SystemClock

TTL_MS = 60_000
SHORT_TTL_MS = 1_200
WAIT_SECONDS_MAX = 20
WITNESS = "witness"


class SteppingClock(FakeClock):
    """Every reading is a second later than the one before."""

    def monotonic(self) -> float:
        self.advance(1)
        return super().monotonic()


class RedisWorld(ABC):
    def __init__(self) -> None:
        self.name = f"{{t.{uuid.uuid4().hex}}}:lock:sync"

    @abstractmethod
    def lock(self, ttl_ms: int = TTL_MS, clock: Clock | None = None) -> Any: ...
    @abstractmethod
    def unreachable_lock(self) -> Any: ...
    @abstractmethod
    def lock_that_loses_its_first_answer(self) -> Any: ...
    @abstractmethod
    async def wipe(self) -> None: ...
    @abstractmethod
    async def set_witness(self, ttl_ms: int) -> None:
        """Set a key that nobody extends."""

    @abstractmethod
    async def witness_lives(self) -> bool:
        """Whether its time to live goes on, as Redis counts it."""

    @abstractmethod
    async def close(self) -> None: ...


class FakeRedisWorld(RedisWorld):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.redis = FakeRedis(self.clock)

    def lock(self, ttl_ms: int = TTL_MS, clock: Clock | None = None) -> FakeLock:
        return FakeLock(self.redis, name=self.name, ttl_ms=ttl_ms, clock=clock or self.clock)

    def unreachable_lock(self) -> FakeLock:
        redis = FakeRedis(self.clock)
        redis.reachable = False
        return FakeLock(redis, name=self.name, ttl_ms=TTL_MS, clock=self.clock)

    def lock_that_loses_its_first_answer(self) -> FakeLock:
        self.redis.loses_next_answer = True
        return self.lock()

    async def wipe(self) -> None:
        self.redis.wipe()

    async def set_witness(self, ttl_ms: int) -> None:
        assert self.redis.set_if_absent(WITNESS, "", ttl_ms / 1000)

    async def witness_lives(self) -> bool:
        self.clock.advance(0.05)
        return self.redis.get(WITNESS) is not None

    async def close(self) -> None:
        """Nothing is open."""


class RealRedisWorld(RedisWorld):
    def __init__(self, server: Redis) -> None:
        super().__init__()
        self.server = server
        self.opened = contextlib.AsyncExitStack()
        self.losing: asyncio.Server | None = None
        self.client = connect(server.url)
        self.opened.push_async_callback(self.client.aclose)

    def lock(self, ttl_ms: int = TTL_MS, clock: Clock | None = None, url: str | None = None) -> RedisLock:
        lock = RedisLock(url or self.server.url, name=self.name, ttl_ms=ttl_ms, clock=clock or SystemClock())
        self.opened.push_async_callback(lock.close)
        return lock

    def unreachable_lock(self) -> RedisLock:
        return self.lock(url=f"redis://127.0.0.1:{free_port()}/0")

    def lock_that_loses_its_first_answer(self) -> RedisLock:
        port = free_port()
        self.opened.push_async_callback(self._stop_losing)
        return _LateLock(self, self.lock(url=f"redis://127.0.0.1:{port}/0"), port)  # type: ignore[return-value]  # it is a lock by its methods

    async def lose_answers(self, port: int) -> None:
        self.losing = await asyncio.start_server(self._forward, "127.0.0.1", port)

    async def wipe(self) -> None:
        await self.client.flushall()

    async def set_witness(self, ttl_ms: int) -> None:
        await self.client.set(self.name + WITNESS, b"", px=ttl_ms)

    async def witness_lives(self) -> bool:
        return bool(await self.client.exists(self.name + WITNESS))

    async def close(self) -> None:
        await self.opened.aclose()

    async def _stop_losing(self) -> None:
        if self.losing is not None:
            self.losing.close()
            await self.losing.wait_closed()

    _lost = False

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on to Redis and back, but cut the connection instead of the first answer to SET."""
        there, back = await asyncio.open_connection("127.0.0.1", self.server.port)
        with contextlib.suppress(ConnectionError):
            while request := await reader.read(65536):
                back.write(request)
                answer = await there.read(65536)
                if b"SET\r\n" in request and not self._lost:
                    self._lost = True
                    break
                writer.write(answer)
        for side in (writer, back):
            side.close()
            await side.wait_closed()


class _LateLock:
    """Opens the losing connection when it is first needed."""

    def __init__(self, world: RealRedisWorld, lock: RedisLock, port: int) -> None:
        self._world, self._lock, self._port = world, lock, port

    async def acquire(self) -> bool:
        if self._world.losing is None:
            await self._world.lose_answers(self._port)
        return await self._lock.acquire()

    def is_held(self) -> bool:
        return self._lock.is_held()


@pytest.fixture(params=["fake", "redis"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[RedisWorld]:
    fake = request.param == "fake"
    world = FakeRedisWorld() if fake else RealRedisWorld(request.getfixturevalue("redis_server"))
    yield world
    await world.close()


class TestLock:
    async def test_one_holder(self, world: RedisWorld) -> None:
        """A second process does not get what the first one holds, until it is released."""
        first, second = world.lock(), world.lock()
        assert not first.is_held()
        assert await first.acquire()
        assert first.is_held()
        assert not await second.acquire()
        assert not second.is_held()
        await first.release()
        assert not first.is_held()
        assert await second.acquire()

    async def test_it_ends_by_itself(self, world: RedisWorld) -> None:
        """A holder that is gone keeps nobody out for longer than the time to live."""
        first, second = world.lock(SHORT_TTL_MS), world.lock()
        assert await first.acquire()
        assert not await second.acquire()
        await world.set_witness(SHORT_TTL_MS)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while await world.witness_lives():
                pass
        assert await second.acquire()
        assert not first.is_held()
        assert await first.renew() is False
        assert second.is_held()

    async def test_renewal_extends(self, world: RedisWorld) -> None:
        """A holder that renews holds for longer than one time to live."""
        first, second = world.lock(SHORT_TTL_MS), world.lock()
        assert await first.acquire()
        await world.set_witness(SHORT_TTL_MS)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while await world.witness_lives():
                assert await first.renew()
        assert not await second.acquire()
        assert first.is_held()

    async def test_the_deadline_counts_from_before_the_command_was_sent(self, world: RedisWorld) -> None:
        """However long an answer takes, the holder stops before Redis lets another in."""
        lock = world.lock(ttl_ms=2_500, clock=SteppingClock())
        assert await lock.acquire()  # read at 1: the deadline is 3.5
        assert lock.is_held()  # 2
        assert lock.is_held()  # 3
        assert not lock.is_held()  # 4
        assert await lock.renew()  # read at 5: the deadline is 7.5
        assert lock.is_held()  # 6
        assert lock.is_held()  # 7
        assert not lock.is_held()  # 8

    async def test_after_a_wipe_the_holder_is_told(self, world: RedisWorld) -> None:
        """At the next renewal at the latest."""
        lock = world.lock()
        assert await lock.acquire()
        await world.wipe()
        assert await lock.renew() is False
        assert not lock.is_held()
        assert await lock.acquire()

    async def test_releasing_what_is_not_ours_is_harmless(self, world: RedisWorld) -> None:
        """A process that woke up late does not take the lock from its successor."""
        first, second, third = world.lock(), world.lock(), world.lock()
        assert await first.acquire()
        await world.wipe()
        assert await second.acquire()
        await first.release()
        assert not await third.acquire()
        assert await second.renew()

    async def test_a_lost_answer_does_not_lock_us_out(self, world: RedisWorld) -> None:
        """The lock was acquired and nobody was told: the next try takes it."""
        lock = world.lock_that_loses_its_first_answer()
        with pytest.raises(RedisUnreachable):
            await lock.acquire()
        assert not lock.is_held()
        assert not await world.lock().acquire()
        assert await lock.acquire()
        assert lock.is_held()

    async def test_unreachable(self, world: RedisWorld) -> None:
        """Acquiring and renewing say so; releasing never raises."""
        lock = world.unreachable_lock()
        with pytest.raises(RedisUnreachable):
            await lock.acquire()
        with pytest.raises(RedisUnreachable):
            await lock.renew()
        await lock.release()
        assert not lock.is_held()


class TestRedis:
    async def test_ping(self, redis_server: Redis) -> None:
        """It tells a Redis that answers from one that does not."""
        await RedisServer(redis_server.url).ping()
        with pytest.raises(RedisUnreachable):
            await RedisServer(f"redis://127.0.0.1:{free_port()}/0").ping()
