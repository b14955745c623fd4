"""Whole looks at a wallet while others change, delete, forbid or add to what it is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fake_cluster import KEY, Cluster
from wallet_core.settings import Role
from wallet_operator.queue import Ask
from wallet_operator.reconcile import LOOK_SECONDS, SOON_SECONDS


async def test_a_status_is_never_written_onto_another_resource(cluster: Cluster) -> None:
    """One of the same name that was made meanwhile has not been bootstrapped, and nobody has looked at it."""
    cluster.create()
    await cluster.settle()

    def make_anew() -> None:
        cluster.server.remove("walletmanagers", *KEY)
        cluster.create()

    cluster.meanwhile = make_anew
    assert await cluster.look(ask=Ask.LOOK, after=31) == SOON_SECONDS
    assert "status" not in cluster.wallet()
    await cluster.look(after=1)
    assert cluster.wallet()["status"]["bootstrapped"] is False


async def test_a_resource_that_changes_during_a_look_is_looked_at_again_soon(cluster: Cluster) -> None:
    """Edited or deleted: that is no failure, and nothing is said of what is not so any more."""
    cluster.create()
    await cluster.settle()
    cluster.meanwhile = lambda: cluster.edit(lambda spec: spec.update(sync={"shards": 2}))
    assert await cluster.look(ask=Ask.LOOK, after=31) == SOON_SECONDS
    await cluster.settle()
    assert cluster.wallet()["status"]["observedGeneration"] == 2
    cluster.meanwhile = lambda: cluster.server.remove("walletmanagers", *KEY)
    assert await cluster.look(ask=Ask.LOOK, after=31) == SOON_SECONDS
    assert await cluster.look(ask=Ask.LOOK) is None


async def test_a_resource_that_is_made_anew_waits_for_the_former_ones_objects(cluster: Cluster) -> None:
    """They go by themselves; nobody has to rename or delete anything."""
    cluster.create()
    await cluster.settle()
    cluster.server.remove("walletmanagers", *KEY)
    left = [where for where in cluster.server.objects if where[0] != "events"]
    cluster.create()
    await cluster.look(after=1)
    assert cluster.condition() == ("Unknown", "Pending")
    assert "waits for the former wallet's objects to go: " in cluster.message()
    assert not [event for event in cluster.server.of("events").values() if event["reason"] == "NameTaken"]
    for where in left:
        cluster.server.remove(*where)
    await cluster.settle()
    assert cluster.condition() == ("True", "Working")


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_a_wallet_that_works_is_not_ill_because_a_resync_is_refused(cluster: Cluster, status: int) -> None:
    """A policy that came later may refuse what there is already. Nothing has changed for the wallet."""
    cluster.create()
    await cluster.settle()
    await cluster.look(after=30)
    cluster.server.refusal = refusing_deployments(status, "admission webhook denied the request")
    for ask in (Ask.RECONCILE, Ask.LOOK, Ask.RECONCILE):
        assert await cluster.look(ask=ask, after=10) == LOOK_SECONDS
        assert cluster.condition() == ("True", "Working")
        assert cluster.condition("Stalled")[0] == cluster.condition("Reconciling")[0] == "False"


async def test_an_edit_that_a_policy_refuses_is_said_and_does_not_stall(cluster: Cluster) -> None:
    """Webhooks answer 400 or 403 as they like: either may be allowed later."""
    cluster.create()
    await cluster.settle()
    cluster.server.refusal = refusing_deployments(400, "admission webhook denied the request")
    cluster.edit(lambda spec: spec.update(sync={"shards": 2}))
    for ask in (Ask.RECONCILE, Ask.LOOK):
        await cluster.look(ask=ask, after=1)
        assert cluster.condition() == ("True", "Working")
        assert cluster.condition("Reconciling") == ("True", "Forbidden")
        assert "Deployment mainnet-sync: admission webhook denied" in cluster.message("Reconciling")


def refusing_deployments(status: int, message: str) -> Callable[[str, str], tuple[int, str] | None]:
    return lambda method, path: (status, message) if method == "PATCH" and "/deployments/" in path else None


async def test_pods_that_are_refused_are_said(cluster: Cluster) -> None:
    """A quota, or a pod security standard, keeps the Deployment's controller from making them: no pod says why."""
    cluster.create()
    await cluster.look()
    cluster.finish_jobs()
    await cluster.look(after=1)
    refused = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: q'}
    for role in (Role.COMMAND, Role.SYNC):
        cluster.server.change(
            "deployments", "wallets", f"mainnet-{role}", lambda found: found.update(status={"conditions": [refused]})
        )
    await cluster.look(ask=Ask.LOOK, after=1)
    assert cluster.condition("Reconciling") == ("True", "Forbidden")
    await cluster.look(ask=Ask.LOOK, after=40)
    assert cluster.condition() == ("Unknown", "WorkersSilent")
    assert 'mainnet-command: pods "x" is forbidden: exceeded quota: q' in cluster.message()
    await cluster.settle()
    assert cluster.condition("Reconciling") == ("False", "NotReconciling")


async def test_an_autoscaler_that_goes_there_and_back_is_no_drift(cluster: Cluster) -> None:
    """Between two looks: only the generation shows that there was anything."""
    cluster.create()
    await cluster.settle()
    scale_command(cluster, 3)
    await cluster.look(after=1)
    for replicas in (5, 3):
        scale_command(cluster, replicas)
    await cluster.look(ask=Ask.LOOK, after=1)
    assert cluster.count("wallet_operator_drift_total", kind="Deployment") == 0
    assert drifts(cluster) == []


def scale_command(cluster: Cluster, replicas: int) -> None:
    cluster.server.change(
        "deployments", "wallets", "mainnet-command", lambda found: found["spec"].update(replicas=replicas)
    )


async def test_what_others_add_is_left_and_not_called_drift(cluster: Cluster) -> None:
    """`kubectl rollout restart` adds an annotation to the pods; nothing of ours has changed, and it stays."""
    cluster.create()
    await cluster.settle()
    restarted = {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}
    cluster.server.change(
        "deployments", "wallets", "mainnet-sync", lambda found: found["spec"]["template"]["metadata"].update(restarted)
    )
    await cluster.look(ask=Ask.LOOK, after=1)
    template = cluster.server.of("deployments")["mainnet-sync"]["spec"]["template"]
    assert template["metadata"]["annotations"] == restarted["annotations"]
    assert drifts(cluster) == []
    cluster.server.change("deployments", "wallets", "mainnet-sync", lambda found: found["spec"].update(replicas=5))
    await cluster.look(ask=Ask.LOOK, after=1)
    assert drifts(cluster) == ["somebody changed Deployment mainnet-sync; applied again"]


def drifts(cluster: Cluster) -> list[str]:
    return [event["message"] for event in cluster.server.of("events").values() if event["reason"] == "Drift"]


async def test_what_was_wrong_before_an_edit_is_not_held_against_it(cluster: Cluster) -> None:
    """Helm gives up on a stalled resource; the edit's own bootstrap has not even begun."""
    cluster.create()
    await cluster.look()
    cluster.fail_job(2, '{"problem": "redis.urlFrom: is no URL"}')
    await cluster.look(after=1)
    assert cluster.condition("Stalled") == ("True", "InvalidSpec")
    cluster.edit(lambda spec: spec["chain"].update(settleDepth=70))
    await cluster.look(after=1)
    assert cluster.condition("Stalled")[0] == "False"
    assert cluster.condition() == ("Unknown", "Pending")


async def test_numbers_go_on_after_the_clock_was_put_back(cluster: Cluster) -> None:
    """By an hour, say: nobody wants to wait for that long."""
    cluster.create()
    await cluster.settle()
    before = cluster.wallet()["status"]["checkedAt"]
    cluster.clock.unix_offset -= 3600
    await cluster.look(ask=Ask.LOOK, after=1)
    assert cluster.wallet()["status"]["checkedAt"] < before
