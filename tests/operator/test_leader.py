"""One operator at a time, by a Lease, against an API server that can fail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from fake_kubernetes import FakeKubernetes
from virtual_time import until
from wallet_operator.api import Api
from wallet_operator.leader import RENEW_DEADLINE_SECONDS, TTL_SECONDS, Election

LEASE = ("leases", "system", "lease")


class FastClock:
    """Its own time, which passes with every sleep at once; `before` each sleep a test may interfere."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.before: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def unix_time(self) -> float:
        return 1_767_225_600.0 + self.now

    async def sleep(self, seconds: float) -> None:
        self.before()
        self.now += seconds
        await asyncio.sleep(0)


def election(api: Api, name: str, clock: FastClock) -> Election:
    return Election(api, "system", "lease", name, clock, lambda: None)


def holder(server: FakeKubernetes) -> str:
    return str(server.objects[LEASE]["spec"]["holderIdentity"])


async def test_the_first_one_makes_the_lease_and_leads() -> None:
    """Its times have the six fractional digits that the API server insists on."""
    server = FakeKubernetes()
    async with server.serving() as api:
        await election(api, "one", FastClock()).win()
    spec = server.objects[LEASE]["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("one", TTL_SECONDS)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", spec["renewTime"])


async def test_a_second_one_waits_until_the_first_renews_no_more() -> None:
    """Counted by its own clock from the last change that it saw: clocks of two machines are not compared."""
    server = FakeKubernetes()
    async with server.serving() as api:
        first, clock = election(api, "one", FastClock()), FastClock()
        await first.win()
        clock.now = 500_000.0
        started, renewals = clock.now, 0

        def renew_for_a_minute() -> None:
            nonlocal renewals
            if clock.now - started < 60:
                renewals += 1
                server.change(*LEASE, lambda lease: lease["spec"].update(renewTime=f"at {renewals}"))

        clock.before = renew_for_a_minute
        await election(api, "two", clock).win()
        assert holder(server) == "two"
        assert clock.now - started > 60 + TTL_SECONDS - 4
        assert server.objects[LEASE]["spec"]["leaseTransitions"] == 1


async def test_of_two_that_try_at_once_one_leads() -> None:
    """The write names the version that was read."""
    server = FakeKubernetes()
    async with server.serving() as api:
        elections = [election(api, name, FastClock()) for name in ("one", "two")]
        tasks = [asyncio.create_task(each.win()) for each in elections]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_gives_the_lease_back_is_followed_at_once() -> None:
    """A rolling update need not wait for the Lease to end. The note goes to the successor."""
    server = FakeKubernetes()
    async with server.serving() as api:
        first, clock = election(api, "one", FastClock()), FastClock()
        await first.win()
        first.note = "wallet a has its turn"
        await first.resign()
        second = election(api, "two", clock)
        await second.win()
        assert clock.now == 1000.0
        assert second.note == "wallet a has its turn"


async def test_the_same_pod_leads_again_at_once() -> None:
    """Its container was started anew, so whoever led before under its name is dead."""
    server = FakeKubernetes()
    async with server.serving() as api:
        await election(api, "one", FastClock()).win()
        clock = FastClock()
        await election(api, "one", clock).win()
        assert clock.now == 1000.0


async def test_a_leader_renews_and_keeps_what_others_wrote() -> None:
    """For as long as the API server takes it."""
    server = FakeKubernetes()
    async with server.serving() as api:
        clock = FastClock()
        leader = election(api, "one", clock)
        await leader.win()
        before = server.objects[LEASE]["spec"]["renewTime"]
        keeping = asyncio.create_task(leader.keep())
        await until(lambda: clock.now > 1100)
        assert not keeping.done()
        assert server.objects[LEASE]["spec"]["renewTime"] > before
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_leader_whose_lease_was_taken_leads_no_more() -> None:
    """It has been replaced."""
    server = FakeKubernetes()
    async with server.serving() as api:
        leader = election(api, "one", FastClock())
        await leader.win()
        server.change(*LEASE, lambda lease: lease["spec"].update(holderIdentity="two"))
        await leader.keep()
        await leader.resign()
        assert holder(server) == "two", "it has nothing to give back"


@pytest.mark.parametrize("failures", [0, 1], ids=["answered", "asked twice"])
async def test_a_leader_whose_renewal_was_done_without_an_answer_goes_on(failures: int) -> None:
    """Its Lease has another version by now, and is its own all the same."""
    server = FakeKubernetes()
    async with server.serving() as api:
        clock = FastClock()
        leader = election(api, "one", clock)
        await leader.win()
        server.change(*LEASE, lambda lease: lease["spec"].update(renewTime="as its lost renewal had it"))
        asked = 0

        def fail_to_show(method: str, _path: str) -> tuple[int, str] | None:
            nonlocal asked
            asked += method == "GET"
            return (503, "busy") if method == "GET" and asked <= failures else None

        server.refusal = fail_to_show
        keeping = asyncio.create_task(leader.keep())
        await until(lambda: clock.now > 1100 or keeping.done())
        assert not keeping.done()
        assert asked == failures + 1
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_leader_whose_lease_was_deleted_leads_no_more() -> None:
    """Whoever makes the next one leads."""
    server = FakeKubernetes()
    async with server.serving() as api:
        leader = election(api, "one", FastClock())
        await leader.win()
        server.remove(*LEASE)
        await leader.keep()
        assert LEASE not in server.objects


async def test_a_leader_that_cannot_renew_stops_before_anybody_else_may_begin() -> None:
    """A few failures are no reason; then it stops, whether the API server answers or not."""
    server = FakeKubernetes()
    async with server.serving() as api:
        clock = FastClock()
        leader = election(api, "one", clock)
        await leader.win()
        renewed_at = clock.now
        server.refusal = lambda _method, _path: (500, "etcd has no leader")
        await leader.keep()
        assert RENEW_DEADLINE_SECONDS <= clock.now - renewed_at < TTL_SECONDS


async def test_one_lost_renewal_is_made_up_for() -> None:
    """The next one counts."""
    server = FakeKubernetes()
    async with server.serving() as api:
        clock = FastClock()
        leader = election(api, "one", clock)
        await leader.win()
        failures = 0

        def fail_once(method: str, _path: str) -> tuple[int, str] | None:
            nonlocal failures
            if method == "PUT" and not failures:
                failures += 1
                return 503, "busy"
            return None

        server.refusal = fail_once
        keeping = asyncio.create_task(leader.keep())
        await until(lambda: clock.now > 1100)
        assert failures == 1
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_note_is_kept_as_soon_as_a_renewal_has_carried_it() -> None:
    """And no sooner: what must not be forgotten is done after that. What is noted meanwhile goes with the next one."""
    server = FakeKubernetes()
    async with server.serving() as api:
        clock = FastClock()
        leader = election(api, "one", clock)
        await leader.win()
        leader.note = "a"
        assert leader.noted == ""
        kept: list[tuple[str, str]] = []

        def meanwhile(method: str, _path: str) -> tuple[int, str] | None:
            if method != "PUT":
                return None
            kept.append((leader.noted, leader.note))
            leader.note = f"b{len(kept)}"
            return (503, "busy") if len(kept) == 1 else None

        server.refusal = meanwhile
        keeping = asyncio.create_task(leader.keep())
        await until(lambda: len(kept) >= 4)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert kept[:4] == [("", "a"), ("", "b1"), ("b1", "b2"), ("b2", "b3")]
        second = election(api, "one", FastClock())
        await second.win()
        assert second.noted == second.note != ""
