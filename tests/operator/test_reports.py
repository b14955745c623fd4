"""What the workers said, how long it counts, and what the API server knows of their pods."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wallet_core.settings import Role
from wallet_operator.pods import WorkerPod, worker_pod
from wallet_operator.reports import FRESH_SECONDS_MAX, Reports
from wallet_operator.workers_status import HttpAskPod, ask_all

BOTH = frozenset({Role.COMMAND, Role.SYNC})


def document(name: str = "sync-0", role: str = "sync", **status: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": role}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}, "status": status}


def pod(name: str = "sync-0", role: str = "sync", **status: Any) -> WorkerPod:
    found = worker_pod(document(name, role, **status))
    assert found is not None
    return found


def test_a_silent_worker_keeps_its_last_word_for_a_while() -> None:
    """One lost answer is no news; after half a minute its role is silent."""
    reports, sync = Reports(), pod()
    reports.update([sync], {sync.uid: {"reason": "Working"}}, {Role.SYNC}, 100.0)
    reports.update([sync], {sync.uid: None}, {Role.SYNC}, 100.0 + FRESH_SECONDS_MAX)
    assert [each.document for each in reports.fresh(100.0 + FRESH_SECONDS_MAX)] == [{"reason": "Working"}]
    assert not reports.silent(100.0 + FRESH_SECONDS_MAX)
    later = 100.1 + FRESH_SECONDS_MAX
    assert not reports.fresh(later)
    assert reports.silent(later) == {Role.SYNC}


def test_the_words_of_a_pod_that_is_gone_do_not_count() -> None:
    """Its lead or its partitions are another one's to take."""
    reports, old, new = Reports(), pod("sync-old"), pod("sync-new")
    reports.update([old], {old.uid: {"leader": True}}, {Role.SYNC}, 0.0)
    reports.update([new], {new.uid: None}, {Role.SYNC}, 1.0)
    assert reports.fresh(1.0) == []
    reports.update([new], {new.uid: {"leader": False}}, {Role.SYNC}, 2.0)
    assert [each.pod.name for each in reports.fresh(2.0)] == ["sync-new"]


def test_a_role_that_never_spoke_is_silent_after_the_same_while() -> None:
    """Counted from when it was first expected to; one that is not expected is not silent."""
    reports = Reports()
    reports.update([], {}, BOTH, 50.0)
    assert not reports.silent(50.0 + FRESH_SECONDS_MAX)
    assert reports.silent(50.1 + FRESH_SECONDS_MAX) == BOTH
    reports.update([], {}, {Role.SYNC}, 100.0)
    assert reports.silent(100.0) == {Role.SYNC}


def test_a_pods_trouble_is_read() -> None:
    """Why it does not run: what the kubelet or the scheduler says."""
    waiting = {"name": "worker", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    assert pod(containerStatuses=[waiting]).trouble == "ImagePullBackOff: no such image"
    starting = {"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}
    assert pod(containerStatuses=[starting]).trouble == ""
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    assert pod(conditions=[unschedulable]).trouble == "Unschedulable: no node"
    assert pod().trouble == ""


def test_a_containers_end_is_read_now_and_from_its_last_life() -> None:
    """A Job's pod has ended, a Deployment's is started again."""
    end = {"terminated": {"exitCode": 2, "message": "a: b\n"}}
    for container in ({"state": end}, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": end}):
        found = pod(containerStatuses=[{"name": "worker", **container}])
        assert (found.exit_code, found.last_words, found.has_wrong_settings) == (2, "a: b", True)


def test_containers_of_others_hide_nothing() -> None:
    """A mesh puts its own into every pod, and the API server lists it first or last."""
    end = {"terminated": {"exitCode": 2, "message": "a: b"}}
    worker = {"name": "worker", "ready": False, "state": end}
    proxy = {"name": "istio-proxy", "ready": True, "state": {"running": {}}}
    for containers in ([proxy, worker], [worker, proxy]):
        found = pod(containerStatuses=containers)
        assert (found.exit_code, found.last_words, found.is_ready) == (2, "a: b", False)


def test_who_lives_can_be_asked() -> None:
    """Neither one that has ended nor one that is being deleted."""
    assert pod(phase="Running").lives
    assert not pod(phase="Succeeded").lives
    going = document()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    found = worker_pod(going)
    assert found is not None
    assert not found.lives
    assert worker_pod(document(role="database")) is None


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ({"role": "sync", "wallet": "a.b", "reason": "Working"}, True),
        ({"role": "command", "wallet": "a.b"}, False),
        ({"role": "sync", "wallet": "a.other"}, False),
        (["sync"], False),
        ("no JSON", False),
        (500, False),
    ],
)
async def test_only_the_workers_own_word_is_taken(answer: Any, taken: bool) -> None:
    """Who has the pod's address by now, or answers something else, is nobody."""

    async def status(_request: web.Request) -> web.Response:
        if isinstance(answer, int):
            return web.Response(status=answer)
        return web.json_response(answer) if not isinstance(answer, str) else web.Response(text=answer)

    application = web.Application()
    application.add_routes([web.get("/status", status)])
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            ask = HttpAskPod(session, port=runner.addresses[0][1])
            one, gone = pod(podIP="127.0.0.1"), pod("over", podIP="127.0.0.1", phase="Failed")
            assert await ask_all(ask, [one, gone], "a.b") == {one.uid: answer if taken else None}
    finally:
        await runner.cleanup()


async def test_a_pod_without_an_address_is_not_asked() -> None:
    """It has not started yet."""
    async with aiohttp.ClientSession() as session:
        assert await HttpAskPod(session)(pod(), "a.b") is None
        assert await HttpAskPod(session, port=1)(pod(podIP="127.0.0.1"), "a.b") is None, "nobody listens there"
