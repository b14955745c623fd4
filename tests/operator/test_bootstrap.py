"""Bootstrap's Jobs: success, failure, and trying again with growing pauses."""

from __future__ import annotations

import json
from typing import Any

from wallet_core.settings import Role
from wallet_operator.bootstrap import (
    RETRY_SECONDS_MAX,
    RETRY_SECONDS_MIN,
    BootstrapMemory,
    BootstrapView,
    has_succeeded,
    look_at_bootstrap,
)
from wallet_operator.kinds import ROLE_LABEL
from wallet_operator.pods import WorkerPod, problems_of

OWNER = "owner"


def job(name: str = "current", uid: str = "j1", *, owner: str = OWNER, **status: Any) -> dict[str, Any]:
    owners = [{"uid": owner, "controller": True}]
    return {"kind": "Job", "metadata": {"name": name, "uid": uid, "ownerReferences": owners}, "status": status}


def failed(uid: str = "j1") -> dict[str, Any]:
    return job(uid=uid, failed=1, conditions=[{"type": "Failed", "status": "True"}])


def deployment(role: Role) -> dict[str, Any]:
    labels = {ROLE_LABEL: role.value}
    owners = [{"uid": OWNER, "controller": True}]
    return {"kind": "Deployment", "metadata": {"name": f"a-{role}", "labels": labels, "ownerReferences": owners}}


def ended(exit_code: int, last_words: str, job_uid: str = "j1") -> WorkerPod:
    return WorkerPod(
        "p", "p1", Role.BOOTSTRAP, None, is_over=True, is_going=False, is_ready=False, trouble="",
        exit_code=exit_code, last_words=last_words, controller_uid=job_uid,
    )  # fmt: skip


def look(
    *documents: dict[str, Any],
    memory: BootstrapMemory | None = None,
    pods: tuple[WorkerPod, ...] = (),
    now: float = 0,
    job_name: str = "current",
) -> BootstrapView:
    return look_at_bootstrap(memory or BootstrapMemory(), job_name, documents, pods, OWNER, now)


def test_any_runs_success_lets_the_roles_begin() -> None:
    """They wait for the first one only; whether the current one has succeeded is another question."""
    assert look(job(succeeded=1)) == BootstrapView(BootstrapMemory("current"), is_current=True)
    assert has_succeeded([job(succeeded=1)], OWNER)
    earlier = (job("earlier", "j0", succeeded=1), job())
    assert (has_succeeded(earlier, OWNER), look(*earlier).is_current) == (True, False)
    assert not has_succeeded([job()], OWNER)
    assert not has_succeeded([job(owner="another", succeeded=1)], OWNER), "somebody else's Job proves nothing"


def test_roles_that_exist_prove_that_bootstrap_had_succeeded() -> None:
    """A lost status must not take them away."""
    assert has_succeeded([deployment(Role.SYNC)], OWNER)
    assert not has_succeeded([], OWNER)


def test_a_failed_run_is_made_again_after_a_pause() -> None:
    """Each failure doubles it, up to a limit: a person may need hours to mend the cause."""
    memory, now, pauses = BootstrapMemory(), 0.0, []
    for attempt in range(12):
        view = look(failed(f"j{attempt}"), memory=memory, now=now)
        assert not view.retry
        pauses.append(view.memory.retry_at - now)
        assert not look(failed(f"j{attempt}"), memory=view.memory, now=view.memory.retry_at - 0.1).retry
        now = view.memory.retry_at
        assert look(failed(f"j{attempt}"), memory=view.memory, now=now).retry == {"current"}
        memory = view.memory
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == RETRY_SECONDS_MAX


def test_what_it_failed_with_stands_until_one_succeeds() -> None:
    """Also while the next run has only begun."""
    view = look(
        failed(), pods=(ended(1, '{"event": "bootstrap_problem", "problem": "TopicsOfAnotherWallet: of b.a"}'),)
    )
    assert view.memory.failure is not None
    assert view.memory.failure.message == "TopicsOfAnotherWallet: of b.a"
    assert look(job(uid="j2"), memory=view.memory).memory.failure == view.memory.failure
    assert look(job(uid="j2", succeeded=1), memory=view.memory).memory == BootstrapMemory("current")


def test_a_wrong_setting_is_told_apart() -> None:
    """Exit code 2 is the resource's fault, and the last line names the field."""
    failure = look(failed(), pods=(ended(2, "WALLET_REDIS: needs exactly one of url and urlFrom"),)).memory.failure
    assert failure is not None
    assert failure.is_wrong_setting
    assert failure.message == "WALLET_REDIS: needs exactly one of url and urlFrom"


def test_what_an_earlier_edit_failed_with_is_forgotten_with_it() -> None:
    """Nobody has tried the new one yet, and it need not wait for as long as the old one had come to."""
    memory = BootstrapMemory()
    for attempt in range(4):
        memory = look(failed(f"j{attempt}"), memory=memory, pods=(ended(2, "redis: odd", f"j{attempt}"),)).memory
    assert memory.failure is not None
    edited = look(failed("j3"), memory=memory, job_name="edited")
    assert edited.memory == BootstrapMemory("edited")
    again = look(job("edited", "j9", conditions=failed()["status"]["conditions"]), memory=memory, job_name="edited")
    assert again.memory.retry_at == RETRY_SECONDS_MIN


def test_the_words_of_another_runs_pod_do_not_count() -> None:
    """It may lie about until its Job is collected, and say what has been mended."""
    pods = (ended(1, "TopicsOfAnotherWallet: of b.a"), ended(2, "redis: odd", "j0"))
    failure = look(failed(), pods=pods).memory.failure
    assert failure is not None
    assert (failure.message, failure.is_wrong_setting) == ("TopicsOfAnotherWallet: of b.a", False)


def test_a_failure_without_words_is_one_all_the_same() -> None:
    """The pod may be gone, or was killed."""
    for pods, word in (((), "its pod is gone"), ((ended(137, ""),), "exit code 137")):
        failure = look(failed(), pods=pods).memory.failure
        assert failure is not None
        assert word in failure.message


def test_all_problems_are_told() -> None:
    """Bootstrap lists everything that a person must mend; what else it logged is no news."""
    lines = [
        json.dumps({"event": "started"}),
        json.dumps({"event": "bootstrap_problem", "problem": "A: a"}),
        json.dumps({"event": "bootstrap_problem", "problem": "B: b"}),
        json.dumps({"event": "stopped"}),
    ]
    assert problems_of("\n".join(lines)) == "A: a; B: b"
    assert problems_of('"problem": "cut"}\n' + lines[1]) == "A: a"
    assert problems_of(json.dumps({"event": "ended", "message": "the broker is odd"})) == "the broker is odd"
    assert problems_of("") == ""
    assert len(problems_of("x" * 5000)) <= 1024
