"""A worker's process: its end, whatever its work is waiting for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from wallet_core.resource import parse_resource
from wallet_core.settings import Role, environment
from wallet_world import wallet_document

STOP_SECONDS_MAX = 10
"""What is promised after SIGTERM."""
DEAF = """
import asyncio, contextlib, os, sys
from wallet_core.settings import Role
from wallet_workers.__main__ import RoleParts, main

@contextlib.asynccontextmanager
async def no_ports(settings, process):
    yield None

async def run(settings, ports, process):
    print("is up", flush=True)
    while True:  # as a client does that retries for ever, or ends only with its broker
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

sys.exit(main(["sync"], os.environ, {Role.SYNC: RoleParts(no_ports, run)}))
"""


def test_work_that_does_not_end_does_not_keep_the_process() -> None:
    """Whoever stops a worker can rely on the time; what was left open the next leader recovers."""
    variables = environment(parse_resource(wallet_document()), Role.SYNC)
    environ = {**os.environ, **variables, "WALLET_HTTP_ADDRESS": "127.0.0.1:0", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", DEAF], env=environ, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        try:
            assert any("is up" in line for line in worker.stdout)
            worker.send_signal(signal.SIGTERM)
            said, _ = worker.communicate(timeout=STOP_SECONDS_MAX)
        finally:
            worker.kill()
    assert worker.returncode == 0
    assert "left_unfinished" in said
