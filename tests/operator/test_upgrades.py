"""Whole looks at wallets while an upgrade of the operator goes from one to the next."""

from __future__ import annotations

from typing import Any

from fake_cluster import Cluster
from wallet_core.settings import Role
from wallet_operator.kinds import DOMAIN
from wallet_operator.queue import Ask
from wallet_operator.reconcile import SOON_SECONDS
from wallet_operator.upgrade import PATIENCE_SECONDS

STUCK = "wallet_operator_upgrade_stuck"


async def upgrade(cluster: Cluster, *names: str) -> None:
    """Wallets that run are served by an operator with another default image, which looks at each in this order."""
    cluster.start_operator(image="workers:2")
    await cluster.operator.list_wallets()
    for name in names:
        await cluster.look(name, after=1)


async def settled(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.create(name)
    await cluster.settle(*names)


async def go_on(cluster: Cluster, *names: str, seconds: float, times: int = 4) -> None:
    """Pods become what their Deployments say, and wallets are looked at."""
    for _ in range(times):
        cluster.finish_jobs()
        cluster.roll_out()
        for name in names:
            await cluster.look(name, after=seconds / len(names))


def as_if_by_older_code(cluster: Cluster, *names: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["metadata"]["annotations"] |= {f"{DOMAIN}/template-hash": "older", f"{DOMAIN}/desired-hash": "older"}
        document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 19

    for name in names:
        for role in (Role.SYNC, Role.COMMAND):
            cluster.server.change("deployments", "wallets", f"{name}-{role}", change)


def is_by_older_code(cluster: Cluster, name: str) -> bool:
    deployment = cluster.server.of("deployments")[f"{name}-sync"]
    return bool(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 19)


async def test_an_upgrade_rolls_one_wallet_at_a_time_and_stops_at_the_first_that_fails(cluster: Cluster) -> None:
    """The second one's pods stay as they are, also through its own edits, until the first is Ready."""
    await settled(cluster, "first", "second")
    await upgrade(cluster, "first", "second")
    assert (cluster.image("first"), cluster.image("second")) == ("workers:2", "workers:1")
    assert "wallet wallets/first has it" in cluster.message("Reconciling", "second")
    assert cluster.condition(name="second") == ("True", "Working")
    cluster.said["first", Role.SYNC] = {"leader": False}
    await go_on(cluster, "first", "second", seconds=1400, times=1)
    assert cluster.image("second") == "workers:1"
    assert "the upgrade has stopped: wallet wallets/first" in cluster.message("Reconciling", "second")
    cluster.edit(lambda spec: spec.update(sync={"shards": 2}), "second")
    await cluster.look("second", after=1)
    found = cluster.server.of("deployments")["second-sync"]["spec"]["replicas"]
    assert (found, cluster.image("second")) == (2, "workers:1"), "an edit is carried out, with the image that runs"
    cluster.roll_out()
    cluster.said.clear()
    await cluster.settle("first", "second")
    assert (cluster.image("first"), cluster.image("second")) == ("workers:2", "workers:2")
    assert cluster.condition("Reconciling", "second") == ("False", "NotReconciling")


async def test_a_halted_wallet_holds_up_none_that_works_again(cluster: Cluster) -> None:
    """It gets the turn while the other one has no leader for a moment, and would keep it for ever."""
    await settled(cluster, "blip", "halted")
    cluster.said["halted", Role.SYNC] = {"reason": "Halted", "message": "x"}
    cluster.said["blip", Role.SYNC] = {"leader": False}
    await upgrade(cluster, "halted", "blip")
    await cluster.look("halted", after=PATIENCE_SECONDS)
    assert (cluster.image("halted"), cluster.image("blip")) == ("workers:2", "workers:1")
    del cluster.said["blip", Role.SYNC]
    await go_on(cluster, "halted", "blip", seconds=20)
    assert cluster.image("blip") == "workers:2"
    assert cluster.condition("Reconciling", "blip") == ("False", "NotReconciling")


async def test_a_wallet_is_asked_before_it_gets_a_turn(cluster: Cluster) -> None:
    """Its status may be of a time before the operator stood still, and it has halted since."""
    await settled(cluster, "halted", "works")
    cluster.said["halted", Role.SYNC] = {"reason": "Halted", "message": "x"}
    assert cluster.condition(name="halted") == ("True", "Working")
    await upgrade(cluster, "halted", "works")
    assert (cluster.image("halted"), cluster.image("works")) == ("workers:1", "workers:2")


async def test_a_wallet_whose_resource_is_refused_holds_up_nobody(cluster: Cluster) -> None:
    """It waited and worked; what it waits for now is its owner."""
    await settled(cluster, "broken", "first", "second")
    cluster.said["broken", Role.SYNC] = {"leader": False}
    await upgrade(cluster, "broken", "first", "second")
    cluster.edit(lambda spec: spec.update(image="evil/image:1"), "second")
    await go_on(cluster, "broken", "first", "second", seconds=30)
    assert cluster.condition(name="second") == ("False", "InvalidSpec")
    assert cluster.image("broken") == "workers:2"


async def test_a_wallet_that_is_being_deleted_gives_its_turn_back(cluster: Cluster) -> None:
    """A finalizer of somebody else may keep it for long."""
    await settled(cluster, "first", "second")
    await upgrade(cluster, "first", "second")
    going = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/wait"]}
    cluster.server.change("walletmanagers", "wallets", "first", lambda found: found["metadata"].update(going))
    await cluster.look("first", after=1)
    await cluster.look("second", after=1)
    assert cluster.image("second") == "workers:2"


async def test_a_wallet_that_is_paused_gives_its_turn_back(cluster: Cluster) -> None:
    """Nothing more is changed of it, so nothing may be waited for."""
    await settled(cluster, "first", "second")
    await upgrade(cluster, "first", "second")
    cluster.said["first", Role.SYNC] = {"leader": False}
    cluster.edit(lambda spec: spec.update(paused=True), "first")
    for name in ("first", "second"):
        await cluster.look(name, after=1)
    assert cluster.image("second") == "workers:2"


async def test_nothing_is_rolled_before_the_lease_says_whose_turn_it_is(cluster: Cluster) -> None:
    """A leader that is killed in between would leave a wallet half upgraded, and its successor begin with another."""
    await settled(cluster, "first", "second")
    cluster.notes.is_renewed = False
    cluster.start_operator(image="workers:2")
    await cluster.operator.list_wallets()
    assert await cluster.look("first", after=1) == SOON_SECONDS
    assert cluster.image("first") == "workers:1"
    assert cluster.message("Reconciling", "first") == "its turn in an upgrade of the operator begins"
    cluster.notes.noted = cluster.notes.note
    await cluster.look("first", after=1)
    assert cluster.image("first") == "workers:2"
    cluster.start_operator()
    await cluster.look("second", after=1)
    assert cluster.image("second") == "workers:1"


async def test_a_scale_of_a_wallet_that_waits_rolls_no_pod(cluster: Cluster) -> None:
    """Newer code of the operator must not come with it; it is carried out when the turn comes."""
    await settled(cluster, "first", "second")
    as_if_by_older_code(cluster, "first", "second")
    cluster.start_operator()
    for name in ("first", "second"):
        await cluster.look(name, after=1)
    assert (is_by_older_code(cluster, "first"), is_by_older_code(cluster, "second")) == (False, True)
    cluster.edit(lambda spec: spec.update(sync={"shards": 2}), "second")
    await cluster.look("second", after=1)
    assert is_by_older_code(cluster, "second")
    await cluster.settle("first", "second")
    assert not is_by_older_code(cluster, "second")
    assert cluster.server.of("deployments")["second-sync"]["spec"]["replicas"] == 2


async def test_a_deployment_of_a_wallet_that_waits_is_made_again(cluster: Cluster) -> None:
    """Whatever else waits: without it the wallet does not work."""
    await settled(cluster, "first", "second")
    as_if_by_older_code(cluster, "first", "second")
    cluster.start_operator()
    for name in ("first", "second"):
        await cluster.look(name, after=1)
    cluster.server.remove("deployments", "wallets", "second-command")
    await cluster.look("second", Ask.LOOK, after=1)
    assert "second-command" in cluster.server.of("deployments")
    assert is_by_older_code(cluster, "second")


async def test_a_failed_bootstrap_of_a_wallet_that_waits_is_said_and_tried_again(cluster: Cluster) -> None:
    """It is that of its own edit, with the image that it has."""
    await settled(cluster, "first", "second")
    await upgrade(cluster, "first", "second")
    cluster.edit(lambda spec: spec["chain"].update(settleDepth=70), "second")
    await cluster.look("second", after=1)
    (job,) = (found for name, found in cluster.server.of("jobs").items() if name.startswith("second"))
    cluster.fail_job(1, '{"problem": "TopicsOfAnotherWallet: of a.b"}')
    cluster.said["second", Role.SYNC] = {"leader": False}
    await cluster.look("second", after=1)
    assert cluster.condition(name="second") == ("False", "BootstrapFailing")
    await cluster.look("second", after=6)
    await cluster.look("second", after=1)
    (again,) = (found for name, found in cluster.server.of("jobs").items() if name.startswith("second"))
    assert again["metadata"]["uid"] != job["metadata"]["uid"]
    assert cluster.image("second") == "workers:1"


async def test_an_edit_of_a_wallet_that_waits_is_observed(cluster: Cluster) -> None:
    """Every pod has its settings, so who waits for the edit need not wait for the upgrade."""
    await settled(cluster, "first", "second")
    await upgrade(cluster, "first", "second")
    cluster.said["first", Role.SYNC] = {"leader": False}
    cluster.edit(lambda spec: spec["chain"].update(settleDepth=70), "second")
    await go_on(cluster, "first", "second", seconds=20)
    assert cluster.wallet("second")["status"]["observedGeneration"] == 2
    assert cluster.condition("Reconciling", "second") == ("True", "WaitsForTurn")
    assert cluster.image("second") == "workers:1"


async def test_a_stuck_upgrade_is_over_when_its_wallet_is_gone(cluster: Cluster) -> None:
    """The metric says so although there is no wallet left to look at; it also says when nobody is looked at."""
    await settled(cluster, "first")
    await upgrade(cluster, "first")
    cluster.said["first", Role.SYNC] = {"leader": False}
    await cluster.look("first", after=1)
    assert cluster.count(STUCK) == 0
    cluster.clock.now += 700
    assert cluster.count(STUCK) == 1
    cluster.server.remove("walletmanagers", "wallets", "first")
    await cluster.look("first", after=1)
    assert cluster.count(STUCK) == 0


async def test_a_turn_in_a_namespace_that_is_served_no_more_deadlocks_nobody(cluster: Cluster) -> None:
    """The operator may not even ask for its wallet there."""
    await settled(cluster, "first")
    cluster.notes.note = '{"wallet": "gone/first", "since": 1.0, "worked": true}'
    cluster.server.refusal = lambda _method, path: (403, "forbidden") if "/gone/" in path else None
    cluster.start_operator(image="workers:2", namespaces=("wallets",))
    assert await cluster.operator.list_wallets() == {("wallets", "first")}
    await cluster.look("first", after=1)
    assert cluster.image("first") == "workers:2"
