"""The operator's whole process with kopf in it, against an API server in memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fake_kubernetes import FakeKubernetes
from resources import MINIMAL
from virtual_time import until
from wallet_operator.kinds import CHILD_KINDS

LEASES = "/apis/coordination.k8s.io/v1/namespaces/system/leases"
PATIENCE_SECONDS = 60.0
"""A limit for a busy machine; each step takes a second or two."""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._port = port

    async def asked(self, path: str) -> tuple[int, str]:
        """The answer; 0 while nobody listens."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self._port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def shows(self, path: str, status: int, said: str = "") -> str:
        """The text, as soon as the answer has this status and says so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found, text = await self.asked(path)
                if found == status and said in text:
                    return text
                await asyncio.sleep(0.05)

    async def stopped(self) -> int:
        """The exit code after SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._process.wait()


@asynccontextmanager
async def operator(
    server: FakeKubernetes, directory: Path, name: str = "operator-0", **changes: str
) -> AsyncIterator[Process]:
    kubeconfig = directory / f"{name}.json"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "fake",
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
                "clusters": [{"name": "fake", "cluster": {"server": server.url}}],
                "users": [{"name": "fake", "user": {"token": "t"}}],
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KUBECONFIG": str(kubeconfig),
        "WALLET_OPERATOR_IMAGE": "workers:1",
        "WALLET_OPERATOR_POD_NAME": name,
        "WALLET_OPERATOR_POD_NAMESPACE": "system",
        "WALLET_OPERATOR_HTTP_ADDRESS": f"127.0.0.1:{port}",
        **changes,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "wallet_operator", env=environ)
    try:
        yield Process(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def wallet(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "mainnet", "namespace": "wallets"}
    return {**MINIMAL, "metadata": metadata, "spec": {**MINIMAL["spec"], **spec}}


async def test_a_resource_is_noticed_applied_and_reported(tmp_path: Path) -> None:
    """By kopf's watch, at once; so is its edit, and a child that somebody deletes. SIGTERM ends it in good order."""
    server = FakeKubernetes()
    async with server.serving(), operator(server, tmp_path) as process:
        await process.shows("/ready", 200)
        await until(lambda: server.is_watched("walletmanagers") and server.is_watched("jobs"))
        server.put(wallet())
        await until(lambda: server.of("jobs"))
        await until(lambda: "status" in server.of("walletmanagers")["mainnet"])
        (first,) = server.of("jobs")
        server.remove("jobs", "wallets", first)
        await until(lambda: server.of("jobs"))
        server.change(
            "walletmanagers", "wallets", "mainnet", lambda found: found["spec"]["chain"].update(settleDepth=70)
        )
        await until(lambda: server.of("jobs") and first not in server.of("jobs"))
        metadata = server.of("walletmanagers")["mainnet"]["metadata"]
        assert not {"finalizers", "annotations"} & metadata.keys(), "a resource is not written to but for its status"
        assert "wallet_operator_leading 1.0" in await process.shows("/metrics", 200)
        assert await process.stopped() == 0
        assert server.of("leases")["wallet-operator"]["spec"]["holderIdentity"] == ""


async def test_the_objects_of_others_are_not_even_read(tmp_path: Path) -> None:
    """A cluster may have ten thousand Deployments and Jobs; they would fill the operator's memory."""
    server = FakeKubernetes()
    labels = {"app.kubernetes.io/managed-by": "wallet-operator", "wallet-manager.dev/wallet": "mainnet"}
    for kind in CHILD_KINDS:
        made = {"kind": kind.kind, "spec": {}}
        server.put({**made, "metadata": {"name": "theirs", "namespace": "shop"}})
        server.put({**made, "metadata": {"name": "ours", "namespace": "wallets", "labels": labels}})
    async with server.serving(), operator(server, tmp_path):
        await until(lambda: all(server.is_watched(kind.plural) for kind in CHILD_KINDS))
        for kind in CHILD_KINDS:
            server.put({"kind": kind.kind, "metadata": {"name": "theirs too", "namespace": "shop"}, "spec": {}})
        assert server.shown == {(kind.plural, "ours") for kind in CHILD_KINDS}


async def test_the_kind_is_found_by_one_request(tmp_path: Path) -> None:
    """However many wallets there are."""
    server = FakeKubernetes()
    for number in range(7):
        server.put({**wallet(), "metadata": {"name": f"wallet-{number}", "namespace": "wallets"}})
    async with server.serving(), operator(server, tmp_path):
        await until(lambda: any(path.endswith("/leases") for _, path in server.requests))
        before = server.requests[: [path for _, path in server.requests].index(LEASES)]
        assert len([path for _, path in before if path.endswith("/walletmanagers")]) == 1


async def test_a_proxy_of_the_environment_is_used(tmp_path: Path) -> None:
    """By both clients, or the operator would apply what it is asked for and notice nothing."""
    server = FakeKubernetes()
    async with server.serving():
        proxy, server.url = server.url, "http://kubernetes.invalid"
        async with operator(server, tmp_path, HTTP_PROXY=proxy) as process:
            await process.shows("/ready", 200)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await until(lambda: server.is_watched("walletmanagers") and server.is_watched("jobs"))
            assert await process.stopped() == 0


async def test_a_standby_waits_without_watching_and_takes_over(tmp_path: Path) -> None:
    """It serves meanwhile, and leads as soon as the first one has stopped."""
    server = FakeKubernetes()
    async with server.serving(), operator(server, tmp_path, "one") as first:
        await until(lambda: server.is_watched("walletmanagers"))
        async with operator(server, tmp_path, "two") as second:
            await second.shows("/ready", 200)
            assert "wallet_operator_leading 0.0" in await second.shows("/metrics", 200)
            assert await first.stopped() == 0
            await until(lambda: not server.is_watched("walletmanagers"))
            await until(lambda: server.is_watched("walletmanagers"))
            assert server.of("leases")["wallet-operator"]["spec"]["holderIdentity"] == "two"
            assert await second.stopped() == 0


async def test_a_leader_that_was_replaced_ends(tmp_path: Path) -> None:
    """With exit code 1: it is started again as a standby."""
    server = FakeKubernetes()
    async with server.serving(), operator(server, tmp_path) as process:
        await until(lambda: server.is_watched("walletmanagers"))
        server.change("leases", "system", "wallet-operator", lambda lease: lease["spec"].update(holderIdentity="other"))
        assert await process.ended() == 1


async def test_missing_rights_are_named_and_waited_for(tmp_path: Path) -> None:
    """It is alive and not ready, says which, leads nothing, and goes on when they are granted."""
    server = FakeKubernetes()
    server.denied = {("list", "pods"), ("watch", "deployments")}
    async with server.serving(), operator(server, tmp_path) as process:
        said = "the right to watch deployments.apps in all namespaces\nthe right to list pods in all namespaces\n"
        await process.shows("/ready", 503, said)
        await process.shows("/live", 200)
        assert server.of("leases") == {}
        server.denied = set()
        await process.shows("/ready", 200)
        assert await process.stopped() == 0


@pytest.mark.parametrize("name", ["WALLET_OPERATOR_IMAGE", "WALLET_OPERATOR_HTTP_ADDRESS"])
async def test_a_wrong_setting_is_exit_code_2(tmp_path: Path, name: str) -> None:
    """No restart can help."""
    server = FakeKubernetes()
    async with (
        server.serving(),
        operator(server, tmp_path, **{name: "" if name.endswith("IMAGE") else "here"}) as process,
    ):
        assert await process.ended() == 2
