"""From what is desired and what there is to actions: laws, by hypothesis, and drift."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wallet_operator.kinds import CHILD_KINDS, DEPLOYMENT, DOMAIN, JOB, Document, identity, kind_of
from wallet_operator.plan import Action, Apply, Delete, NameTaken, Seen, Why, plan

OWNER = "owner"
NAMES = ("a", "b", "c")


def manifest(kind: str = "Deployment", name: str = "a", desired_hash: str = "1", **spec: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": name, "annotations": {f"{DOMAIN}/desired-hash": desired_hash}},
        "spec": spec,
    }


def document(
    kind: str = "Deployment",
    name: str = "a",
    desired_hash: str = "1",
    owner: str | None = OWNER,
    *,
    going: bool = False,
    generation: int = 1,
    **spec: Any,
) -> dict[str, Any]:
    made = manifest(kind, name, desired_hash, **spec)
    made["metadata"] |= {"uid": f"{kind}-{name}", "generation": generation}
    if owner:
        made["metadata"]["ownerReferences"] = [{"uid": owner, "controller": True}]
    if going:
        made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return made


kinds = st.sampled_from([kind.kind for kind in CHILD_KINDS])
hashes = st.sampled_from(["1", "2"])
desires = st.lists(st.builds(manifest, kinds, st.sampled_from(NAMES), hashes), unique_by=identity, max_size=6)
worlds = st.lists(
    st.builds(
        document,
        kinds,
        st.sampled_from(NAMES),
        hashes,
        st.sampled_from([OWNER, OWNER, "another", None]),
        going=st.booleans(),
    ),
    unique_by=identity,
    max_size=8,
)


def carried_out(actions: list[Action], observed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The world afterwards, and without what was on its way out."""
    world = {identity(each): each for each in observed if not each["metadata"].get("deletionTimestamp")}
    for action in actions:
        match action:
            case Apply(each):
                world[identity(each)] = document(each["kind"], each["metadata"]["name"], _hash(each))
            case Delete(kind, name):
                del world[kind.kind, name]
    return list(world.values())


def _hash(each: Document) -> str:
    return str(each["metadata"]["annotations"][f"{DOMAIN}/desired-hash"])


@given(desires, worlds, st.booleans())
def test_somebody_elses_objects_stay_as_they_are(
    desired: list[dict[str, Any]], observed: list[dict[str, Any]], everything: bool
) -> None:
    """Whatever is desired: neither applied over nor deleted; a desired name of theirs is reported, each once."""
    others = {
        identity(each)
        for each in observed
        if not any(owner["uid"] == OWNER for owner in each["metadata"].get("ownerReferences", ()))
    }
    actions = plan(desired, observed, OWNER, everything=everything)
    touched = [
        identity(action.manifest) if isinstance(action, Apply) else (action.kind.kind, action.name)
        for action in actions
        if not isinstance(action, NameTaken)
    ]
    assert not others & set(touched)
    taken = [(action.kind.kind, action.name) for action in actions if isinstance(action, NameTaken)]
    going = {identity(each) for each in observed if each["metadata"].get("deletionTimestamp")}
    assert sorted(taken) == sorted((others - going) & {identity(each) for each in desired})


@given(desires, worlds, st.booleans())
def test_two_rounds_lead_to_what_is_desired_and_then_nothing_is_to_do(
    desired: list[dict[str, Any]], observed: list[dict[str, Any]], everything: bool
) -> None:
    """What is on its way out is gone in the second round; a third one finds everything as it should be.

    A Job that is there is one of these contents: they are in its name.
    """
    world = observed
    for _ in range(2):
        world = carried_out(plan(desired, world, OWNER, everything=everything), world)
    ours = {
        identity(each): _hash(each)
        for each in world
        if any(owner["uid"] == OWNER for owner in each["metadata"].get("ownerReferences", ()))
    }
    theirs = {identity(each) for each in world} - ours.keys()
    expected = {identity(each): _hash(each) for each in desired if identity(each) not in theirs}
    assert ours.keys() == expected.keys()
    assert all(ours[what] == expected[what] for what in expected if what[0] != "Job")
    left = plan(desired, world, OWNER, everything=False)
    assert all(isinstance(action, NameTaken) for action in left)


@given(desires, worlds)
def test_a_resync_applies_everything_that_is_ours(
    desired: list[dict[str, Any]], observed: list[dict[str, Any]]
) -> None:
    """The API server says what differs; nothing that seems to be as it should is trusted to be.

    But for Jobs, which nobody can change: they are made, and not applied again.
    """
    found = {identity(each): each for each in observed}
    actions = plan(desired, observed, OWNER, everything=True)
    applied = {identity(action.manifest) for action in actions if isinstance(action, Apply)}
    expected = {
        identity(each)
        for each in desired
        if identity(each) not in found
        or (
            each["kind"] != "Job"
            and not found[identity(each)]["metadata"].get("deletionTimestamp")
            and found[identity(each)]["metadata"].get("ownerReferences", [{}])[0].get("uid") == OWNER
        )
    }
    assert applied == expected


@given(desires, worlds)
def test_what_is_kept_is_neither_applied_nor_deleted(
    desired: list[dict[str, Any]], observed: list[dict[str, Any]]
) -> None:
    """A wallet that waits for its turn in an upgrade runs on as it is."""
    keep = {identity(each) for each in (*desired, *observed) if kind_of(each) in (DEPLOYMENT, JOB)}
    for action in plan(desired, observed, OWNER, everything=True, keep=keep):
        what = identity(action.manifest) if isinstance(action, Apply) else (action.kind.kind, action.name)
        assert what not in keep


def only(actions: list[Action]) -> Action:
    (action,) = actions
    return action


def test_a_change_by_others_is_drift() -> None:
    """Its generation moved, though what is desired of it did not."""
    seen = {"Deployment-a": Seen(1, 2)}
    now = document(generation=2, replicas=2)
    assert only(plan([manifest(replicas=2)], [now], OWNER, everything=False, seen=seen)) == Apply(
        manifest(replicas=2), Why.DRIFTED, "Deployment-a", generation=2
    )
    assert plan([manifest(replicas=2)], [document(replicas=2)], OWNER, everything=False, seen=seen) == []
    ours = only(plan([manifest(desired_hash="2", replicas=2)], [now], OWNER, everything=False, seen=seen))
    assert isinstance(ours, Apply)
    assert ours.why is Why.CHANGED, "our own wish is no drift"


def test_an_autoscalers_scaling_is_no_drift() -> None:
    """Where the resource names no replicas they are somebody else's to say; where it does, they are not."""
    seen = {"Deployment-a": Seen(1, 2)}
    now = document(generation=2, replicas=5)
    assert plan([manifest()], [now], OWNER, everything=False, seen=seen) == []
    drifted = only(plan([manifest(replicas=2)], [now], OWNER, everything=False, seen=seen))
    assert isinstance(drifted, Apply)
    assert drifted.why is Why.DRIFTED


def test_what_a_former_resource_left_is_told_apart() -> None:
    """The garbage collector removes it soon; what belongs to anybody else stays until a person does something."""
    owner = {"apiVersion": "g/v1", "kind": "WalletManager", "name": "mainnet", "controller": True}

    def owned(each: dict[str, Any], **changes: str) -> dict[str, Any]:
        each["metadata"]["ownerReferences"] = [{**owner, **changes}]
        return each

    desired = owned(manifest(), uid=OWNER)
    for changes, by_former in (({}, True), ({"name": "other"}, False), ({"kind": "ReplicaSet"}, False)):
        action = only(plan([desired], [owned(document(), uid="former", **changes)], OWNER, everything=True))
        assert action == NameTaken(DEPLOYMENT, "a", by_former=by_former)
    assert only(plan([desired], [document(owner=None)], OWNER, everything=True)) == NameTaken(DEPLOYMENT, "a")


def test_a_failed_job_is_deleted_though_it_is_desired() -> None:
    """Only then can it be made again."""
    job = document("Job", "a")
    assert only(plan([manifest("Job", "a")], [job], OWNER, everything=True, retry={"a"})) == Delete(JOB, "a", "Job-a")


def test_planning_changes_nothing() -> None:
    """The values that go in are somebody else's."""
    desired, observed = [manifest(desired_hash="2")], [document(), document("Job", "b")]
    before = copy.deepcopy((desired, observed))
    plan(desired, observed, OWNER, everything=True)
    assert (desired, observed) == before
