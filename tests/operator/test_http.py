"""What the operator serves of itself, leading or not."""

from __future__ import annotations

import aiohttp
import pytest

from wallet_core.errors import InvalidSetting
from wallet_operator.http import Health, serving
from wallet_operator.metrics import Metrics


class StillClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def unix_time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def asked(path: str, health: Health) -> tuple[int, str]:
    async with (
        serving("127.0.0.1:0", health, Metrics()) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_a_standby_lives_as_long_as_it_tries() -> None:
    """It has no resync; a try that fails is a try."""
    clock = StillClock()
    health = Health(clock, 60)
    assert (await asked("/live", health))[0] == 200
    clock.now = 10_000
    assert await asked("/live", health) == (503, "the Lease was tried 10000 s ago\n")
    health.attempted()
    assert (await asked("/live", health))[0] == 200


async def test_a_leader_lives_as_long_as_it_resyncs() -> None:
    """A loop that hangs is started again, also while the Lease is renewed beside it."""
    clock = StillClock()
    health = Health(clock, 60)
    health.lead()
    clock.now = 299
    health.attempted()
    assert (await asked("/live", health))[0] == 200
    clock.now = 301
    health.attempted()
    assert await asked("/live", health) == (503, "the last resync was 301 s ago\n")
    health.resynced()
    assert (await asked("/live", health))[0] == 200


async def test_it_is_ready_when_nothing_is_missing() -> None:
    """Else it says what is."""
    health = Health(StillClock(), 60)
    assert (await asked("/ready", health))[0] == 503
    health.missing = ("the right to list pods in all namespaces", "the right to list jobs.batch in all namespaces")
    status, text = await asked("/ready", health)
    assert (status, text.splitlines()) == (503, list(health.missing))
    health.missing = ()
    assert await asked("/ready", health) == (200, "ready\n")


async def test_metrics_are_served() -> None:
    """In Prometheus' own form."""
    status, text = await asked("/metrics", Health(StillClock(), 60))
    assert status == 200
    assert "wallet_operator_leading 0.0" in text


@pytest.mark.parametrize("address", ["8080", "localhost", ":8080", "127.0.0.1:http", "203.0.113.1:80"])
async def test_an_address_that_cannot_be_served_on_is_a_wrong_setting(address: str) -> None:
    """Named, with exit code 2."""
    with pytest.raises(InvalidSetting, match=r"^WALLET_OPERATOR_HTTP_ADDRESS: "):
        async with serving(address, Health(StillClock(), 60), Metrics()):
            pass
