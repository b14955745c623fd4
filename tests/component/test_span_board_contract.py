"""What sequencer and scanners rely on when they share a board, on the fake board and on a real Redis."""

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
from wallet_core.ports import PutBack, SpanBoard, SpanClaim
from wallet_core.spans import SPANS_POSTED_MAX
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.testing.fake_redis import FakeRedis
from wallet_core.testing.fake_spans import FakeSpanBoard
from wallet_workers.adapters.redis import connect
from wallet_workers.adapters.redis_spans import RedisSpanBoard

TTL_MS = 60_000
SHORT_TTL_MS = 1_200
WAIT_SECONDS_MAX = 20
LOOK_SECONDS = 0.05


class BoardWorld(ABC):
    def __init__(self) -> None:
        self.prefix = f"{{t.{uuid.uuid4().hex}}}:spans"

    @abstractmethod
    def board(self, *, claim_ttl_ms: int = TTL_MS, cut_ttl_ms: int = TTL_MS) -> SpanBoard: ...
    @abstractmethod
    def unreachable_board(self) -> SpanBoard: ...
    @abstractmethod
    async def wipe(self) -> None: ...
    @abstractmethod
    async def pass_time(self) -> None:
        """Let a moment pass, while a condition is waited for."""

    @abstractmethod
    async def close(self) -> None: ...

    async def until_claimed(self, board: SpanBoard, cut: str) -> SpanClaim:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while (claim := await board.claim(cut)) is None:
                await self.pass_time()
        return claim


class FakeBoardWorld(BoardWorld):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.redis = FakeRedis(self.clock)

    def board(self, *, claim_ttl_ms: int = TTL_MS, cut_ttl_ms: int = TTL_MS) -> SpanBoard:
        return FakeSpanBoard(
            self.redis, prefix=self.prefix, claim_ttl_ms=claim_ttl_ms, cut_ttl_ms=cut_ttl_ms, clock=self.clock
        )

    def unreachable_board(self) -> SpanBoard:
        redis = FakeRedis(self.clock)
        redis.reachable = False
        return FakeSpanBoard(redis, prefix=self.prefix, claim_ttl_ms=TTL_MS, cut_ttl_ms=TTL_MS, clock=self.clock)

    async def wipe(self) -> None:
        self.redis.wipe()

    async def pass_time(self) -> None:
        self.clock.advance(LOOK_SECONDS)

    async def close(self) -> None:
        """Nothing is open."""


class RealBoardWorld(BoardWorld):
    def __init__(self, server: Redis) -> None:
        super().__init__()
        self.server = server
        self.opened = contextlib.AsyncExitStack()

    def board(self, *, claim_ttl_ms: int = TTL_MS, cut_ttl_ms: int = TTL_MS) -> SpanBoard:
        return self._on(self.server.url, claim_ttl_ms, cut_ttl_ms)

    def unreachable_board(self) -> SpanBoard:
        return self._on(f"redis://127.0.0.1:{free_port()}/0", TTL_MS, TTL_MS)

    def _on(self, url: str, claim_ttl_ms: int, cut_ttl_ms: int) -> RedisSpanBoard:
        board = RedisSpanBoard(url, prefix=self.prefix, claim_ttl_ms=claim_ttl_ms, cut_ttl_ms=cut_ttl_ms)
        self.opened.push_async_callback(board.close_connections)
        return board

    async def wipe(self) -> None:
        client = connect(self.server.url)
        await client.flushall()
        await client.aclose()

    async def pass_time(self) -> None:
        await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        await self.opened.aclose()


@pytest.fixture(params=["fake", "redis"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[BoardWorld]:
    fake = request.param == "fake"
    world = FakeBoardWorld() if fake else RealBoardWorld(request.getfixturevalue("redis_server"))
    yield world
    await world.close()


async def posted(board: SpanBoard, cut: str, *spans: bytes) -> list[str]:
    tasks = [await board.post(cut, span) for span in spans]
    assert None not in tasks
    return [task for task in tasks if task is not None]


class TestOffers:
    async def test_a_span_goes_from_the_sequencer_to_a_scanner_and_back(self, world: BoardWorld) -> None:
        """The scanner is told the cut, its terms and the span; the sequencer the result and who made it."""
        sequencer, scanner = world.board(), world.board()
        assert await scanner.terms() is None
        cut = await sequencer.open(b"terms")
        [task] = await posted(sequencer, cut, b"span")
        assert await sequencer.take(cut, task) is None

        assert await scanner.terms() == (cut, b"terms")
        claim = await scanner.claim(cut)
        assert claim == SpanClaim(cut, task, b"span")
        assert await sequencer.take(cut, task) is None
        assert await scanner.put_back(claim, b"\x00result\xff")
        assert await sequencer.take(cut, task) == PutBack(scanner.scanner, b"\x00result\xff")

    async def test_a_taken_result_is_gone(self, world: BoardWorld) -> None:
        """Nothing of an offer is left on the board, and a late answer to it finds nothing to answer."""
        board = world.board()
        cut = await board.open(b"")
        [task] = await posted(board, cut, b"span")
        claim = await world.until_claimed(board, cut)
        await board.put_back(claim, b"result")
        assert await board.take(cut, task) is not None
        assert await board.take(cut, task) is None
        assert not await board.put_back(claim, b"late")
        assert not await board.renew(claim)
        assert await board.take(cut, task) is None
        assert await board.claim(cut) is None

    async def test_spans_are_handed_out_in_the_order_of_the_chain(self, world: BoardWorld) -> None:
        """Each once: the sequencer needs the first one first."""
        sequencer, first, second = world.board(), world.board(), world.board()
        cut = await sequencer.open(b"")
        await posted(sequencer, cut, b"1", b"2", b"3")
        claims = [await first.claim(cut), await second.claim(cut), await first.claim(cut)]
        assert [claim.span for claim in claims if claim] == [b"1", b"2", b"3"]
        assert await second.claim(cut) is None

    async def test_the_board_holds_a_bounded_number_of_offers(self, world: BoardWorld) -> None:
        """Answered ones count until they are taken: a sequencer that takes nothing fills no Redis."""
        board = world.board()
        cut = await board.open(b"")
        tasks = await posted(board, cut, *(b"%d" % n for n in range(SPANS_POSTED_MAX)))
        assert await board.post(cut, b"one too many") is None
        claim = await world.until_claimed(board, cut)
        await board.put_back(claim, b"result")
        assert await board.post(cut, b"one too many") is None
        await board.take(cut, claim.task)
        assert await board.post(cut, b"fits") is not None
        await board.withdraw(cut, tasks[-1])
        assert await board.post(cut, b"fits too") is not None

    async def test_a_span_put_back_twice_counts_once(self, world: BoardWorld) -> None:
        """The first answer stands, whoever gave it."""
        sequencer, slow, quick = world.board(), world.board(claim_ttl_ms=SHORT_TTL_MS), world.board(claim_ttl_ms=1)
        cut = await sequencer.open(b"")
        [task] = await posted(sequencer, cut, b"span")
        late = await world.until_claimed(slow, cut)
        await world.pass_time()
        taken_over = await world.until_claimed(quick, cut)
        assert await quick.put_back(taken_over, b"first")
        assert not await slow.put_back(late, b"second")
        assert not await quick.put_back(taken_over, b"third")
        assert await sequencer.take(cut, task) == PutBack(quick.scanner, b"first")

    async def test_a_withdrawn_offer_is_over(self, world: BoardWorld) -> None:
        """Unclaimed, claimed or answered: nobody works on it any more."""
        board = world.board()
        cut = await board.open(b"")
        await posted(board, cut, b"span", b"span", b"span")
        answered, claimed = await world.until_claimed(board, cut), await world.until_claimed(board, cut)
        await board.put_back(answered, b"result")
        [unclaimed] = await posted(board, cut, b"span")
        for task in (answered.task, claimed.task, unclaimed):
            await board.withdraw(cut, task)
            assert await board.take(cut, task) is None
        assert not await board.renew(claimed)
        assert not await board.put_back(claimed, b"late")
        assert await world.until_claimed(board, cut) is not None
        assert await board.claim(cut) is None


class TestClaims:
    async def test_a_dead_scanners_span_is_taken_over(self, world: BoardWorld) -> None:
        """Before a new one, for the sequencer waits for the oldest; and the dead one has lost its claim."""
        sequencer, dead, alive = (world.board(claim_ttl_ms=SHORT_TTL_MS) for _ in range(3))
        cut = await sequencer.open(b"")
        [task, _] = await posted(sequencer, cut, b"1", b"2")
        claim = await world.until_claimed(dead, cut)
        first = await world.until_claimed(alive, cut)
        assert first.span == b"2"
        await posted(sequencer, cut, b"3")
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while True:
                await world.pass_time()
                assert await alive.renew(first)
                taken = await alive.claim(cut)
                if taken and taken.span == b"1":
                    break
                if taken:
                    await alive.hand_back(taken)
        assert taken.task == task
        assert not await dead.renew(claim)

    async def test_dead_scanners_are_found_behind_many_live_ones(self, world: BoardWorld) -> None:
        """However many offers before theirs are held and renewed, and each of their spans goes to one scanner."""
        sequencer, alive, dead, *others = (world.board(claim_ttl_ms=SHORT_TTL_MS) for _ in range(5))
        cut = await sequencer.open(b"")
        await posted(sequencer, cut, *(b"%d" % n for n in range(14)))
        held = [await world.until_claimed(alive, cut) for _ in range(12)]
        lost = [await world.until_claimed(dead, cut) for _ in range(2)]
        taken: list[SpanClaim] = []
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(taken) < len(lost):
                await world.pass_time()
                for claim in held:
                    assert await alive.renew(claim)
                if found := await others[len(taken)].claim(cut):
                    taken.append(found)
        assert sorted(claim.span for claim in taken) == [b"12", b"13"]

    async def test_nobody_else_is_given_what_a_live_scanner_holds(self, world: BoardWorld) -> None:
        """A scanner that renews keeps its span for many lives of a claim."""
        sequencer, holder, other = (world.board(claim_ttl_ms=SHORT_TTL_MS) for _ in range(3))
        cut = await sequencer.open(b"")
        await posted(sequencer, cut, b"span")
        claim = await world.until_claimed(holder, cut)
        for _ in range(3 * SHORT_TTL_MS // 50):
            assert await holder.renew(claim)
            assert await other.claim(cut) is None
            await world.pass_time()
        assert await holder.renew(claim)

    async def test_a_lost_claim_cannot_be_renewed_back(self, world: BoardWorld) -> None:
        """A scanner that wakes up late does not take the span from its successor."""
        sequencer, late, successor = (world.board(claim_ttl_ms=SHORT_TTL_MS) for _ in range(3))
        cut = await sequencer.open(b"")
        await posted(sequencer, cut, b"span")
        claim = await world.until_claimed(late, cut)
        taken = await world.until_claimed(successor, cut)
        assert taken == claim
        assert not await late.renew(claim)
        await late.hand_back(claim)
        assert await successor.renew(taken)
        assert await late.claim(cut) is None

    async def test_what_is_handed_back_is_taken_at_once(self, world: BoardWorld) -> None:
        """A scanner that stops, or whose node is away, keeps nobody waiting."""
        sequencer, first, second = world.board(), world.board(), world.board()
        cut = await sequencer.open(b"")
        await posted(sequencer, cut, b"span")
        claim = await world.until_claimed(first, cut)
        assert await second.claim(cut) is None
        await first.hand_back(claim)
        assert await second.claim(cut) == claim
        assert not await first.renew(claim)


class TestCuts:
    async def test_a_new_cut_takes_the_place_of_the_old_one(self, world: BoardWorld) -> None:
        """What another leader cut can neither be claimed nor answered nor taken, and its sequencer is told."""
        before, after, scanner = world.board(), world.board(), world.board()
        old = await before.open(b"old")
        [task, _] = await posted(before, old, b"span", b"span")
        claim = await world.until_claimed(scanner, old)
        new = await after.open(b"new")
        assert new != old
        assert await scanner.terms() == (new, b"new")
        assert await scanner.claim(old) is None
        assert not await scanner.renew(claim)
        assert not await scanner.put_back(claim, b"result")
        assert await before.take(old, task) is None
        assert await before.post(old, b"span") is None
        assert not await before.announce(old, b"old again")
        await before.close(old)
        assert await after.announce(new, b"new again")
        assert await scanner.terms() == (new, b"new again")
        assert await scanner.claim(new) is None

    async def test_names_are_never_used_again(self, world: BoardWorld) -> None:
        """Neither those of cuts nor those of offers, even by one process and after a wipe."""
        board = world.board()
        cuts, tasks = set(), set()
        for _ in range(3):
            cut = await board.open(b"")
            cuts.add(cut)
            tasks |= {(cut, task) for task in await posted(board, cut, b"span", b"span")}
            await world.wipe()
        assert len(cuts) == 3
        assert len(tasks) == 6
        assert len({world.board().scanner for _ in range(3)}) == 3

    async def test_a_wiped_board_is_noticed(self, world: BoardWorld) -> None:
        """The sequencer is told that its cut is gone, and nothing of it comes back to life."""
        sequencer, scanner = world.board(), world.board()
        cut = await sequencer.open(b"")
        [task] = await posted(sequencer, cut, b"span")
        claim = await world.until_claimed(scanner, cut)
        await world.wipe()
        assert await scanner.terms() is None
        assert not await scanner.renew(claim)
        assert not await scanner.put_back(claim, b"result")
        await scanner.hand_back(claim)
        assert await scanner.claim(cut) is None
        assert await sequencer.post(cut, b"span") is None
        assert await sequencer.take(cut, task) is None
        await sequencer.withdraw(cut, task)
        assert not await sequencer.announce(cut, b"")
        assert await scanner.terms() is None
        again = await sequencer.open(b"")
        await posted(sequencer, again, b"span")
        assert await scanner.claim(again) is not None

    async def test_a_cut_that_nobody_looks_after_goes_by_itself(self, world: BoardWorld) -> None:
        """A leader that is gone leaves nothing behind; one that announces its cut keeps it."""
        board = world.board(cut_ttl_ms=SHORT_TTL_MS)
        cut = await board.open(b"")
        await posted(board, cut, b"span")
        for _ in range(2 * SHORT_TTL_MS // 50):
            await world.pass_time()
            assert await board.announce(cut, b"")
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while await board.terms() is not None:
                await world.pass_time()
        assert not await board.announce(cut, b"")
        assert await board.claim(cut) is None

    async def test_a_closed_cut_is_gone(self, world: BoardWorld) -> None:
        """Scanners find nothing to do."""
        board = world.board()
        cut = await board.open(b"")
        await posted(board, cut, b"span")
        await board.close(cut)
        assert await board.terms() is None
        assert await board.claim(cut) is None
        assert not await board.announce(cut, b"")


async def test_unreachable(world: BoardWorld) -> None:
    """Every call says so."""
    board: Any = world.unreachable_board()
    claim = SpanClaim("cut", "1-0", b"")
    for call in (
        board.open(b""),
        board.announce("cut", b""),
        board.post("cut", b""),
        board.take("cut", "1-0"),
        board.withdraw("cut", "1-0"),
        board.close("cut"),
        board.terms(),
        board.claim("cut"),
        board.renew(claim),
        board.hand_back(claim),
        board.put_back(claim, b""),
    ):
        with pytest.raises(RedisUnreachable):
            await call


async def test_a_redis_that_forgets_a_part_has_forgotten_the_cut(redis_server: Redis) -> None:
    """One that is short of memory may drop the stream alone; nobody makes a new one without its group."""
    world = RealBoardWorld(redis_server)
    board = world.board()
    cut = await board.open(b"")
    await posted(board, cut, b"span")
    client = connect(redis_server.url)
    await client.delete(f"{world.prefix}:{cut}")
    await client.aclose()
    assert await board.post(cut, b"span") is None
    assert await board.claim(cut) is None
    assert not await board.announce(cut, b"")
    await world.close()
