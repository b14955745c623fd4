"""What every worker process serves on its one port: `/live`, `/ready`, `/status`, `/metrics`.

- `/live`: the worker's loop came round lately. A loop that hangs for LIVE_SECONDS_MAX is beyond its own help.
- `/ready`: the process serves and is not stopping. It needs neither the node, nor the lock, nor a partition: a standby
  is ready, and a dead node must not block drains.
- `/status`: one JSON document: role, reason, message, troubles, and the facts of the role.
- `/metrics`: Prometheus.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Mapping

from aiohttp import web
from prometheus_client import exposition

from wallet_core.errors import AddressTaken, InvalidSetting
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import Stopping

LIVE_SECONDS_MAX = 600.0
"""Above every step's own limit; the longest is a start that reads ten million addresses."""

Facts = Callable[[], Mapping[str, object]]
"""Facts that are looked up whenever `/status` is asked for."""


@contextlib.asynccontextmanager
async def serving(
    address: str, status: WorkerStatus, metrics: Metrics, stopping: Stopping, facts: Facts
) -> AsyncIterator[None]:
    """Serve on `host:port` meanwhile. Raises InvalidSetting where that is none, AddressTaken where it is taken."""

    async def live(_request: web.Request) -> web.Response:
        age = status.seconds_since_beat
        return web.Response(
            status=200 if age < LIVE_SECONDS_MAX else 503, text=f"the last step began {age:.1f} s ago\n"
        )

    async def ready(_request: web.Request) -> web.Response:
        return web.Response(status=503, text="stopping\n") if stopping else web.Response(text="ready\n")

    async def show_status(_request: web.Request) -> web.Response:
        return web.json_response({**status.as_dict(), **facts()})

    async def show_metrics(_request: web.Request) -> web.Response:
        body = exposition.generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE_PLAIN_0_0_4})

    application = web.Application()
    application.add_routes(
        [
            web.get("/live", live),
            web.get("/ready", ready),
            web.get("/status", show_status),
            web.get("/metrics", show_metrics),
        ]
    )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidSetting("WALLET_HTTP_ADDRESS", "should be <host>:<port>, 0.0.0.0:8080 for example")
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, int(port)).start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressTaken(f"another process serves on {address}") from error
            raise InvalidSetting("WALLET_HTTP_ADDRESS", f"{address} cannot be served on: {error.strerror}") from error
        yield
    finally:
        await runner.cleanup()
