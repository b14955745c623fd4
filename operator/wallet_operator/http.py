"""What the operator serves, leading or not: `/live`, `/ready`, `/metrics`.

- `/live`: the last try at the Lease, and at the leader the last resync, are not too long ago. A loop that hangs is
  beyond its own help.
- `/ready`: its rights suffice and the resource's kind exists; the body names what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import exposition

from wallet_core.errors import InvalidSetting
from wallet_core.ports import Clock
from wallet_operator.metrics import Metrics

ATTEMPT_SECONDS_MAX = 120.0
"""Above the limit of one request and the pause after it."""
RESYNCS_MISSED_MAX = 3


class Health:
    """How the operator is."""

    def __init__(self, clock: Clock, resync_seconds: float) -> None:
        self._clock = clock
        self._resync_seconds_max = RESYNCS_MISSED_MAX * resync_seconds + ATTEMPT_SECONDS_MAX
        self._attempted_at = clock.monotonic()
        self._resynced_at: float | None = None
        self.missing: tuple[str, ...] = ("its rights have not been checked yet",)
        """What keeps the operator from its work; empty where nothing does."""

    def attempted(self) -> None:
        """The Lease was tried, or what is missing was looked for."""
        self._attempted_at = self._clock.monotonic()

    def resynced(self) -> None:
        """All wallets were listed."""
        self._resynced_at = self._clock.monotonic()

    def lead(self) -> None:
        """From now on resyncs are expected."""
        self.resynced()

    @property
    def fault(self) -> str:
        """Why the process should be started again; empty where it need not be."""
        now = self._clock.monotonic()
        if (age := now - self._attempted_at) > ATTEMPT_SECONDS_MAX:
            return f"the Lease was tried {age:.0f} s ago"
        if self._resynced_at is not None and (age := now - self._resynced_at) > self._resync_seconds_max:
            return f"the last resync was {age:.0f} s ago"
        return ""


@contextlib.asynccontextmanager
async def serving(address: str, health: Health, metrics: Metrics) -> AsyncIterator[int]:
    """Serve on `host:port` meanwhile; gives the port. Raises InvalidSetting."""

    async def live(_request: web.Request) -> web.Response:
        return web.Response(status=503 if health.fault else 200, text=f"{health.fault or 'alive'}\n")

    async def ready(_request: web.Request) -> web.Response:
        text = "\n".join(health.missing) or "ready"
        return web.Response(status=503 if health.missing else 200, text=f"{text}\n")

    async def show_metrics(_request: web.Request) -> web.Response:
        body = exposition.generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE_PLAIN_0_0_4})

    application = web.Application()
    application.add_routes([web.get("/live", live), web.get("/ready", ready), web.get("/metrics", show_metrics)])
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidSetting("WALLET_OPERATOR_HTTP_ADDRESS", "should be <host>:<port>, 0.0.0.0:8080 for example")
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, int(port)).start()
        except OSError as error:
            problem = f"{address} cannot be served on: {error.strerror}"
            raise InvalidSetting("WALLET_OPERATOR_HTTP_ADDRESS", problem) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
