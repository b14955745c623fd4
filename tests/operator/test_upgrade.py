"""One wallet at a time where the operator itself changes what runs: whose turn it is, and what waits for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fake_cluster import LeaseNotes, StillClock
from resources import FULL, MINIMAL
from wallet_core.resource import parse_resource
from wallet_core.settings import Role
from wallet_operator.kinds import DOMAIN
from wallet_operator.manifests import Manifest, Wanted, desired
from wallet_operator.upgrade import PATIENCE_SECONDS, Decision, Turn, Turns, hold_back

READY_SECONDS_MAX = 600.0
A, B, C = ("wallets", "a"), ("wallets", "b"), ("wallets", "c")
OLD = Wanted(parse_resource(MINIMAL), uid="u1", generation=3, operator_image="workers:1", sync_generation=2)
NEW_IMAGE = replace(OLD, operator_image="workers:2")
DEPLOYMENTS = {("Deployment", "mainnet-command"), ("Deployment", "mainnet-sync")}


class Lead:
    """One leader's turns."""

    def __init__(self, note: str = "", namespaces: tuple[str, ...] = ()) -> None:
        self.clock = StillClock()
        self.notes = LeaseNotes()
        self.notes.note = note
        self.turns = Turns(self.clock, self.notes, ready_seconds_max=READY_SECONDS_MAX, namespaces=namespaces)

    def ask(self, key: tuple[str, str], *, works: bool, after: float = 0) -> bool:
        self.clock.now += after
        return self.turns.ask(key, works=works)


def test_one_wallet_has_the_turn_until_it_is_ready() -> None:
    """Then the next one has it."""
    lead = Lead()
    assert lead.ask(A, works=True)
    assert lead.ask(A, works=False), "it does not work while it rolls"
    assert not lead.ask(B, works=True)
    assert lead.turns.why_waiting(B) == "waits for its turn in an upgrade of the operator; wallet wallets/a has it"
    lead.turns.done(B)
    assert not lead.ask(B, works=True), "it had no turn to give back"
    lead.turns.done(A)
    assert lead.ask(B, works=True)


def test_the_first_that_does_not_become_ready_stops_the_upgrade() -> None:
    """A bad release harms one wallet. When that one is Ready after all, or deleted, it goes on."""
    lead = Lead()
    lead.ask(A, works=True)
    assert not lead.ask(B, works=True, after=READY_SECONDS_MAX)
    assert not lead.turns.is_stuck
    assert not lead.ask(B, works=True, after=1)
    assert lead.turns.is_stuck
    assert "wallets/a is not Ready with it after 600 s" in lead.turns.why_waiting(B)
    lead.turns.done(A)
    assert not lead.turns.is_stuck
    assert lead.ask(B, works=True)


def test_a_wallet_that_does_not_work_lets_those_go_first_that_do() -> None:
    """It may never become Ready, whatever it runs. Those that work ask at every look: silence means there is none."""
    lead = Lead()
    assert not lead.ask(A, works=False), "the others may not have been heard yet"
    assert "those that work go first" in lead.turns.why_waiting(A)
    assert lead.ask(B, works=True)
    assert not lead.ask(C, works=True, after=PATIENCE_SECONDS)
    lead.turns.done(B)
    assert not lead.ask(A, works=False, after=PATIENCE_SECONDS - 1)
    assert lead.ask(C, works=True)
    lead.turns.done(C)
    assert lead.ask(A, works=False, after=PATIENCE_SECONDS), "nobody is before it any more"


def test_who_does_not_ask_any_more_holds_nobody_up() -> None:
    """Its resource may be refused by now, or name another image, or be gone: nobody has to say so."""
    lead = Lead()
    lead.ask(A, works=True)
    lead.ask(B, works=True)
    lead.turns.done(A)
    assert lead.ask(C, works=False, after=PATIENCE_SECONDS)


def test_a_wallet_that_did_not_work_holds_up_none_that_does() -> None:
    """All may stand still for a moment, and one of them for good: it has had its upgrade, and the others go on."""
    lead = Lead()
    assert lead.ask(A, works=False, after=PATIENCE_SECONDS)
    assert not lead.ask(B, works=False, after=PATIENCE_SECONDS)
    assert lead.ask(B, works=True)
    assert not lead.ask(A, works=False, after=PATIENCE_SECONDS)
    assert not lead.ask(C, works=True), "that one worked before, so it holds its turn"


def test_a_new_leader_knows_whose_turn_it_is() -> None:
    """From the note that the last one left, also whether the wallet worked before; every change is noted."""
    first = Lead()
    first.ask(A, works=True)
    second = Lead(first.notes.noted)
    assert not second.ask(B, works=True)
    assert second.ask(A, works=False)
    second.turns.done(A)
    assert second.notes.noted == ""
    first = Lead()
    first.ask(A, works=False, after=PATIENCE_SECONDS)
    assert Lead(first.notes.noted).ask(B, works=True)


@pytest.mark.parametrize("nonsense", ["", "{}", "[]", "null", '{"wallet": 1, "since": 2, "worked": true}', "{"])
def test_a_note_that_says_nothing_sensible_is_no_turn(nonsense: str) -> None:
    """Anybody who may write the Lease may have written it."""
    assert Turn.from_text(nonsense) is None


def test_nothing_is_changed_before_the_turn_is_noted() -> None:
    """Else a new leader would upgrade another wallet beside it."""
    lead = Lead()
    lead.notes.is_renewed = False
    assert not lead.ask(A, works=True)
    assert lead.turns.is_of(A)
    assert lead.turns.why_waiting(A) == "its turn in an upgrade of the operator begins"
    assert not lead.ask(B, works=True)
    lead.notes.noted = lead.notes.note
    assert lead.ask(A, works=True)


def test_a_turn_in_a_namespace_that_is_served_no_more_ends() -> None:
    """Nobody could ever say that its wallet is Ready."""
    first = Lead()
    first.ask(A, works=True)
    assert not Lead(first.notes.noted, namespaces=("wallets", "others")).ask(B, works=True)
    second = Lead(first.notes.noted, namespaces=("others",))
    assert second.notes.noted == ""
    assert second.ask(("others", "b"), works=True)


def running(wanted: Wanted = OLD, *, is_older: bool = False, role: Role | None = None) -> list[dict[str, Any]]:
    """What there is. `is_older`: made by other code, of other templates, of a role's or of all."""
    documents = desired(wanted)
    for document in documents:
        annotations, kind = document["metadata"]["annotations"], document["kind"]
        if is_older and kind == "Deployment" and (role is None or document["metadata"]["name"].endswith(role)):
            annotations[f"{DOMAIN}/template-hash"] = annotations[f"{DOMAIN}/desired-hash"] = "by-older-code"
    return documents


def held(wanted: Wanted, documents: list[Manifest]) -> Decision | None:
    return hold_back(wanted, desired(wanted), documents)


def images(manifests: list[Manifest]) -> set[str]:
    specs = [each["spec"]["template"]["spec"] for each in manifests if each["kind"] in {"Deployment", "Job"}]
    return {spec["containers"][0]["image"] for spec in specs}


def edited(wanted: Wanted, **spec: Any) -> Wanted:
    document = {**MINIMAL, "spec": {**MINIMAL["spec"], **spec}}
    return replace(wanted, wallet=parse_resource(document), generation=wanted.generation + 1)


def test_another_default_image_waits() -> None:
    """All else is applied, also a user's edit beside it: with the image that runs."""
    assert held(OLD, running()) is None
    for wanted in (NEW_IMAGE, edited(NEW_IMAGE, tuning={"pollSeconds": 2}), edited(NEW_IMAGE, sync={"shards": 2})):
        decision = held(wanted, running())
        assert decision is not None
        assert decision.now == desired(replace(wanted, operator_image="workers:1"))
        assert images(decision.now) == {"workers:1"}
        assert not decision.keep


def test_another_template_of_the_same_resource_waits() -> None:
    """The operator's own code made it. Its Deployments stay as they are; what there is not, is made."""
    decision = held(NEW_IMAGE, running(is_older=True))
    assert decision is not None
    assert decision.keep == DEPLOYMENTS
    assert images(decision.now) == {"workers:1"}
    decision = held(OLD, running(is_older=True, role=Role.SYNC))
    assert decision is not None
    assert decision.keep == {("Deployment", "mainnet-sync")}
    lost = [each for each in running(is_older=True) if each["metadata"]["name"] != "mainnet-command"]
    decision = held(OLD, lost)
    assert decision is not None
    assert decision.keep == {("Deployment", "mainnet-sync")}


def test_a_bootstrap_of_older_code_is_not_made_again() -> None:
    """Where it has succeeded. Where it has failed, or is gone, nothing speaks against trying with the newer."""
    documents = running(is_older=True)
    (job,) = (each for each in documents if each["kind"] == "Job")
    job["metadata"]["name"] = "mainnet-bootstrap-older"
    jobs = {("Job", "mainnet-bootstrap-older"), *(("Job", each["metadata"]["name"]) for each in jobs_of(desired(OLD)))}
    decision = held(OLD, documents)
    assert decision is not None
    assert not decision.keep & jobs
    job["status"] = {"succeeded": 1}
    decision = held(OLD, documents)
    assert decision is not None
    assert decision.keep >= jobs


def jobs_of(manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == "Job"]


@pytest.mark.parametrize(
    "spec",
    [
        {"tuning": {"pollSeconds": 2}},
        {"image": "registry/workers:3"},
        {"pod": {"nodeSelector": {"disk": "fast"}}},
        {"sync": {"resources": {"requests": {"cpu": "1"}}}},
        {"imagePullSecrets": [{"name": "registry"}]},
    ],
)
def test_a_users_edit_waits_for_nobody(spec: dict[str, Any]) -> None:
    """It rolls the wallet at once, whoever else is being upgraded, and also under newer code."""
    assert held(edited(OLD, **spec), running()) is None
    assert held(edited(OLD, **spec), running(is_older=True)) is None


@pytest.mark.parametrize(
    "spec",
    [
        {"sync": {"shards": 2}},
        {"accounts": {**MINIMAL["spec"]["accounts"], "replicas": 3}},
        {"accounts": {**MINIMAL["spec"]["accounts"], "suspend": True}},
        {"paused": False},
    ],
)
def test_a_scale_does_not_roll_pods_before_their_turn(spec: dict[str, Any]) -> None:
    """It concerns no pod, so newer code must not come with it. Without newer code it waits for nobody."""
    decision = held(edited(OLD, **spec), running(is_older=True))
    assert decision is not None
    assert decision.keep >= DEPLOYMENTS
    assert held(edited(OLD, **spec), running()) is None


def test_newer_code_that_reads_the_same_resource_otherwise_waits() -> None:
    """Another default is another hash of the resource, and no user's doing as long as nobody has edited it."""
    documents = running(is_older=True)
    for document in documents:
        document["metadata"]["annotations"][f"{DOMAIN}/resource-hash"] = "with-other-defaults"
    assert held(OLD, documents) is not None
    assert held(edited(OLD), documents) is None


def test_a_pinned_image_knows_no_upgrade() -> None:
    """The default image is not in its pods."""
    pinned = replace(OLD, wallet=parse_resource(FULL))
    assert held(replace(pinned, operator_image="workers:2"), running(pinned)) is None


def test_a_new_wallet_needs_no_turn() -> None:
    """Nothing of it runs that could be harmed; what runs may be another's."""
    assert held(OLD, []) is None
    assert held(NEW_IMAGE, running(replace(OLD, uid="another"))) is None


def test_a_generation_without_which_nobody_leads_needs_no_turn() -> None:
    """The wallet stands still until it has one. Another image waits all the same."""
    superseded = replace(OLD, sync_generation=9)
    assert held(superseded, running()) is None
    decision = held(replace(superseded, operator_image="workers:2"), running())
    assert decision is not None
    assert decision.now == desired(superseded)
    assert not decision.keep
