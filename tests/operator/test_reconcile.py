"""Whole looks at wallets, against an API server in memory and workers that say what they are told to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from fake_cluster import KEY, Cluster
from resources import MINIMAL
from wallet_core.settings import Role
from wallet_operator.api import ApiUnreachable
from wallet_operator.kinds import DOMAIN, WALLETS
from wallet_operator.queue import Ask
from wallet_operator.reconcile import LOOK_SECONDS, sync_generation


async def test_a_new_wallet_becomes_ready_step_by_step(cluster: Cluster) -> None:
    """First bootstrap alone; after its success the roles; Ready when they say so."""
    cluster.create()
    await cluster.look()
    assert cluster.condition() == ("Unknown", "Pending")
    assert (len(cluster.server.of("jobs")), cluster.server.of("deployments")) == (1, {})
    cluster.finish_jobs()
    await cluster.look(ask=Ask.LOOK)
    assert cluster.server.of("deployments").keys() == {"mainnet-command", "mainnet-sync"}
    assert cluster.wallet()["status"]["bootstrapped"] is True
    assert cluster.condition() == ("Unknown", "Pending"), "the workers may yet answer"
    cluster.roll_out()
    await cluster.look(ask=Ask.LOOK)
    assert cluster.condition() == ("True", "Working")
    status = cluster.wallet()["status"]
    assert (status["observedGeneration"], status["shards"], status["block"]) == (1, 1, 7)
    assert cluster.server.of("networkpolicies").keys() == {f"mainnet-{role}" for role in Role}
    assert cluster.server.of("poddisruptionbudgets").keys() == {"mainnet-command"}
    assert cluster.count("wallet_ready", namespace="wallets", name="mainnet") == 1


async def test_a_quiet_wallet_is_asked_and_not_written_to(cluster: Cluster) -> None:
    """A look reads, and writes its numbers every half minute; only a resync applies."""
    cluster.create()
    await cluster.settle()
    for ask, expected in ((Ask.LOOK, 0), (Ask.RECONCILE, 6)):
        await cluster.look(ask=ask, after=30)
        cluster.server.requests.clear()
        assert await cluster.look(ask=ask, after=1) == LOOK_SECONDS
        writes = [method for method, _ in cluster.server.requests if method != "GET"]
        assert writes == ["PATCH"] * expected, "2 Deployments, 1 budget, 3 policies"
    before = {where: each["metadata"]["resourceVersion"] for where, each in cluster.server.objects.items()}
    await cluster.look(after=1)
    after = {where: each["metadata"]["resourceVersion"] for where, each in cluster.server.objects.items()}
    assert after == before, "an unchanged apply changes nothing"


async def test_what_others_change_or_delete_is_put_right_and_counted(cluster: Cluster) -> None:
    """A change is drift; a deletion is seen as well."""
    cluster.create()
    await cluster.settle()
    cluster.server.change("deployments", "wallets", "mainnet-sync", lambda found: found["spec"].update(replicas=5))
    del cluster.server.objects["poddisruptionbudgets", "wallets", "mainnet-command"]
    await cluster.look(ask=Ask.LOOK)
    assert cluster.server.of("deployments")["mainnet-sync"]["spec"]["replicas"] == 1
    assert "mainnet-command" in cluster.server.of("poddisruptionbudgets")
    assert cluster.count("wallet_operator_drift_total", kind="Deployment") == 1
    assert any(event["reason"] == "Drift" for event in cluster.server.of("events").values())


async def test_an_autoscaler_keeps_its_replicas(cluster: Cluster) -> None:
    """The resource names none, so they are not ours."""
    cluster.create()
    await cluster.settle()
    cluster.server.change("deployments", "wallets", "mainnet-command", lambda found: found["spec"].update(replicas=5))
    await cluster.look()
    assert cluster.server.of("deployments")["mainnet-command"]["spec"]["replicas"] == 5
    assert cluster.count("wallet_operator_drift_total", kind="Deployment") == 0


async def test_a_scale_changes_one_number(cluster: Cluster) -> None:
    """No pod template changes with it, and `/scale` finds what it needs."""
    cluster.create()
    await cluster.settle()
    before = cluster.server.of("deployments")["mainnet-sync"]["spec"]["template"]
    cluster.edit(lambda spec: spec.update(sync={"shards": 3}))
    await cluster.settle()
    found = cluster.server.of("deployments")["mainnet-sync"]["spec"]
    assert (found["replicas"], found["template"]) == (3, before)
    status = cluster.wallet()["status"]
    assert (status["shards"], status["observedGeneration"]) == (3, 2)
    assert status["selector"] == "app.kubernetes.io/component=sync,wallet-manager.dev/wallet=mainnet"
    assert len(cluster.server.of("jobs")) == 1


async def test_an_edit_makes_another_bootstrap_and_another_generation_of_sync(cluster: Cluster) -> None:
    """The old Job goes; sync's workers get the generation of the edit that concerned them, and no later one."""
    cluster.create()
    await cluster.settle()
    (before,) = cluster.server.of("jobs")
    cluster.edit(lambda spec: spec["chain"].update(settleDepth=70))
    await cluster.settle()
    (after,) = cluster.server.of("jobs")
    assert before != after
    assert generation_of(cluster) == "2"
    cluster.edit(lambda spec: spec.update(sync={"shards": 2}))
    await cluster.settle()
    assert generation_of(cluster) == "2", "a scale does not concern sync's settings"
    cluster.edit(lambda spec: spec["chain"].update(settleDepth=71))
    await cluster.settle()
    assert generation_of(cluster) == "4"
    assert cluster.condition() == ("True", "Working")


def generation_of(cluster: Cluster) -> str:
    container = cluster.server.of("deployments")["mainnet-sync"]["spec"]["template"]["spec"]["containers"][0]
    return str(next(each["value"] for each in container["env"] if each["name"] == "WALLET_GENERATION"))


async def test_a_resource_that_was_made_anew_goes_on(cluster: Cluster) -> None:
    """Its generations begin at 1 again, and the checkpoint remembers higher ones: the workers say so."""
    cluster.create()
    await cluster.settle()
    cluster.said["mainnet", Role.SYNC] = {"leader": False, "superseded_by": 17}
    await cluster.look(after=1)
    await cluster.look(ask=Ask.LOOK, after=1)
    assert generation_of(cluster) == "18"
    cluster.said.clear()
    await cluster.settle()
    assert generation_of(cluster) == "18"
    assert cluster.condition() == ("True", "Working")


def test_a_generation_is_never_used_for_two_settings() -> None:
    """Whatever changes them: an edit, the operator's own code, or a lost Deployment."""
    assert sync_generation(None, 1, "h") == 1

    def noted(generation: int, settings_hash: str) -> dict[str, Any]:
        names = {"settings-generation": str(generation), "settings-hash": settings_hash}
        return {"metadata": {"annotations": {f"{DOMAIN}/{name}": value for name, value in names.items()}}}

    assert sync_generation(noted(3, "h"), 9, "h") == 3
    assert sync_generation(noted(3, "h"), 9, "other") == 9
    assert sync_generation(noted(3, "h"), 3, "other") == 4, "the operator's code changed them"
    assert sync_generation(noted(3, "h"), 3, "h", superseded_by=3) == 3, "an old pod that is on its way out says so"
    assert sync_generation(noted(3, "h"), 3, "h", superseded_by=4) == 5


async def test_a_wrong_edit_stops_nothing_and_is_said(cluster: Cluster) -> None:
    """The workers go on with what they have, and the wallet is good again when the edit is."""
    cluster.create()
    await cluster.settle()
    before = copy.deepcopy(cluster.server.of("deployments"))
    cluster.edit(lambda spec: spec.update(image="evil/image:1"))
    await cluster.look()
    assert cluster.condition() == ("False", "InvalidSpec")
    assert cluster.condition("Stalled") == ("True", "InvalidSpec")
    assert "spec.image" in cluster.message()
    assert cluster.server.of("deployments") == before
    assert cluster.wallet()["status"]["bootstrapped"] is True
    cluster.edit(lambda spec: spec.pop("image"))
    await cluster.look(after=1)
    assert cluster.condition() == ("True", "Working")


async def test_a_paused_wallet_is_only_watched(cluster: Cluster) -> None:
    """Nothing is applied or pruned; the status goes on. What was edited meanwhile is applied afterwards."""
    cluster.create()
    await cluster.settle()
    cluster.edit(lambda spec: spec.update(paused=True, sync={"shards": 4}))
    del cluster.server.objects["poddisruptionbudgets", "wallets", "mainnet-command"]
    cluster.server.requests.clear()
    cluster.said["mainnet", Role.SYNC] = {"leader": False}
    await cluster.look(after=1)
    assert {path for method, path in cluster.server.requests if method == "PATCH"} == {
        "/apis/wallet-manager.dev/v1alpha1/namespaces/wallets/walletmanagers/mainnet/status"
    }
    assert cluster.condition("Paused") == ("True", "SpecPaused")
    assert cluster.condition() == ("False", "NoLeader")
    cluster.said.clear()
    cluster.edit(lambda spec: spec.update(paused=False))
    await cluster.settle()
    assert cluster.server.of("deployments")["mainnet-sync"]["spec"]["replicas"] == 4
    assert cluster.condition("Paused") == ("False", "NotPaused")


async def test_an_object_of_somebody_else_is_never_applied_over(cluster: Cluster) -> None:
    """With our labels or without them; when it is gone the wallet gets its own."""
    foreign: dict[str, Any] = {
        "kind": "Deployment",
        "metadata": {"name": "mainnet-sync", "namespace": "wallets"},
        "spec": {"replicas": 9},
    }
    labelled = copy.deepcopy(foreign)
    labelled["metadata"] |= {"name": "mainnet-command", "labels": {"wallet-manager.dev/wallet": "mainnet"}}
    before = [copy.deepcopy(cluster.server.put(each)) for each in (foreign, labelled)]
    cluster.create()
    await cluster.look()
    cluster.finish_jobs()
    await cluster.look()
    assert list(cluster.server.of("deployments").values()) == before
    assert cluster.condition() == ("False", "NameTaken")
    assert "Deployment mainnet-command, Deployment mainnet-sync" in cluster.message()
    cluster.server.objects.pop(("deployments", "wallets", "mainnet-sync"))
    cluster.server.objects.pop(("deployments", "wallets", "mainnet-command"))
    await cluster.settle()
    assert cluster.condition() == ("True", "Working")


async def test_a_failed_bootstrap_is_said_and_tried_again(cluster: Cluster) -> None:
    """With the reason that it ended with; when it succeeds all is well by itself."""
    cluster.create()
    await cluster.look()
    (first,) = cluster.server.of("jobs").values()
    cluster.fail_job(1, '{"event": "bootstrap_problem", "problem": "TopicsOfAnotherWallet: of a.b"}')
    await cluster.look(after=1)
    assert cluster.condition() == ("False", "BootstrapFailing")
    assert cluster.message() == "TopicsOfAnotherWallet: of a.b"
    await cluster.look(ask=Ask.LOOK, after=6)
    assert cluster.server.of("jobs") == {}
    await cluster.look(ask=Ask.LOOK, after=1)
    (second,) = cluster.server.of("jobs").values()
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert cluster.condition() == ("False", "BootstrapFailing")
    await cluster.settle()
    assert cluster.condition() == ("True", "Working")


async def test_the_younger_of_two_wallets_with_one_key_makes_nothing(cluster: Cluster) -> None:
    """Until the older one is gone."""
    cluster.create("older", accounts=MINIMAL["spec"]["accounts"])
    cluster.server.change(
        "walletmanagers", "wallets", "older", lambda found: found["metadata"].update(creationTimestamp="2025-12-31")
    )
    cluster.create("younger", accounts=MINIMAL["spec"]["accounts"])
    for name in ("younger", "older"):
        await cluster.look(name)
    assert cluster.condition(name="younger") == ("False", "InvalidSpec")
    assert "the older wallet wallets/older has the same key" in cluster.message(name="younger")
    assert {job.rpartition("-bootstrap-")[0] for job in cluster.server.of("jobs")} == {"older"}
    del cluster.server.objects["walletmanagers", "wallets", "older"]
    await cluster.look("older")
    await cluster.look("younger")
    assert "younger" in {job.rpartition("-bootstrap-")[0] for job in cluster.server.of("jobs")}


async def test_an_object_that_the_api_server_refuses_is_said(cluster: Cluster) -> None:
    """What is not well-formed is the resource's fault; what is forbidden may be allowed later."""
    cluster.create()
    cluster.server.refusal = refusing_jobs(422, "affinity: odd")
    await cluster.look()
    assert cluster.condition() == ("False", "InvalidSpec")
    assert "affinity: odd" in cluster.message()
    cluster.server.refusal = refusing_jobs(403, "exceeded quota")
    await cluster.look(after=1)
    assert cluster.condition() == ("Unknown", "Pending")
    assert "exceeded quota" in cluster.message()
    assert len(cluster.server.of("networkpolicies")) == 3, "one object's refusal does not keep the others"
    cluster.server.refusal = lambda _method, _path: None
    await cluster.settle()
    assert cluster.condition() == ("True", "Working")


def refusing_jobs(status: int, message: str) -> Callable[[str, str], tuple[int, str] | None]:
    return lambda method, path: (status, message) if method == "PATCH" and "/jobs/" in path else None


async def test_an_api_server_that_is_away_ends_the_look(cluster: Cluster) -> None:
    """It is made again later; nothing is concluded."""
    cluster.create()
    cluster.server.refusal = lambda _method, _path: (503, "etcd is away")
    with pytest.raises(ApiUnreachable, match="etcd is away"):
        await cluster.look()


async def test_a_wallet_that_is_gone_is_forgotten(cluster: Cluster) -> None:
    """Its objects go with it by their owner; its metrics go too."""
    cluster.create()
    await cluster.settle()
    assert await cluster.operator.list_wallets() == {KEY}
    del cluster.server.objects["walletmanagers", *KEY]
    assert await cluster.operator.list_wallets() == {KEY}, "it is looked at once more"
    assert await cluster.look() is None
    assert await cluster.operator.list_wallets() == set()
    labels = {"namespace": "wallets", "name": "mainnet"}
    assert cluster.metrics.registry.get_sample_value("wallet_ready", labels) is None


async def test_a_wallet_that_is_being_deleted_is_left_alone(cluster: Cluster) -> None:
    """Its objects are deleted with it, and none is made anew."""
    cluster.create()
    cluster.server.change(
        "walletmanagers", *KEY, lambda found: found["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z")
    )
    await cluster.look()
    assert cluster.server.of("jobs") == {}


async def test_a_silent_role_is_unknown_after_half_a_minute(cluster: Cluster) -> None:
    """And not before: one lost answer is no news."""
    cluster.create()
    await cluster.settle()
    cluster.said["mainnet", Role.COMMAND] = None
    await cluster.look(ask=Ask.LOOK, after=20)
    assert cluster.condition() == ("True", "Working")
    await cluster.look(ask=Ask.LOOK, after=20)
    assert cluster.condition() == ("Unknown", "WorkersSilent")
    cluster.said.clear()
    await cluster.look(ask=Ask.LOOK, after=10)
    assert cluster.condition() == ("True", "Working")


async def test_lists_are_read_to_their_end(cluster: Cluster) -> None:
    """The API server hands out long lists in pages."""
    for number in range(7):
        cluster.create(f"wallet-{number}")
    found = await cluster.api.list(WALLETS, None, limit=3)
    assert [each["metadata"]["name"] for each in found] == [f"wallet-{number}" for number in range(7)]
    assert {each["kind"] for each in found} == {"WalletManager"}
