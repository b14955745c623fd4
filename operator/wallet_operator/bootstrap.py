"""Bootstrap's Jobs: whether one has succeeded, and when a failed one is made again.

A failed Job is final, so trying again is deleting it; the next reconcile makes it anew. The pause before grows from
RETRY_SECONDS_MIN to RETRY_SECONDS_MAX. What it failed with stands until one succeeds, or runs and says something else,
or the resource asks for another Job: what was wrong with the last one may just have been mended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from wallet_core.settings import Role
from wallet_operator.kinds import DEPLOYMENT, JOB, ROLE_LABEL, Document, controller_uid, identity
from wallet_operator.pods import EXIT_WRONG_SETTINGS, WorkerPod, problems_of

RETRY_SECONDS_MIN = 5.0
RETRY_SECONDS_MAX = 300.0


@dataclass(frozen=True)
class Failure:
    """What the last run of bootstrap ended with."""

    message: str
    is_wrong_setting: bool


@dataclass(frozen=True)
class BootstrapMemory:
    """What is remembered from look to look."""

    job_name: str = ""
    """Of the Job that all else is about."""
    failure: Failure | None = None
    failed_uid: str | None = None
    """Of the failed Job that was seen last."""
    retry_at: float = 0.0
    """When it is deleted; monotonic seconds."""
    pause_seconds: float = RETRY_SECONDS_MIN
    """Before the next one."""


@dataclass(frozen=True)
class BootstrapView:
    """What the Jobs say."""

    memory: BootstrapMemory
    is_current: bool = False
    """Whether the Job of the resource as it is has succeeded."""
    retry: frozenset[str] = field(default_factory=frozenset)
    """Names of Jobs to be deleted now."""


def has_succeeded(observed: Iterable[Document], owner_uid: str) -> bool:
    """Whether any run has, or the roles exist, which shows that one had."""
    ours = [document for document in observed if controller_uid(document) == owner_uid]
    return any(
        bool((document.get("status") or {}).get("succeeded"))
        if document["kind"] == JOB.kind
        else document["kind"] == DEPLOYMENT.kind and document["metadata"]["labels"].get(ROLE_LABEL) == Role.SYNC
        for document in ours
    )


def look_at_bootstrap(
    memory: BootstrapMemory,
    job_name: str,
    observed: Iterable[Document],
    pods: Iterable[WorkerPod],
    owner_uid: str,
    now: float,
) -> BootstrapView:
    """`job_name`: of the Job of the resource as it is. `now`: monotonic seconds."""
    if memory.job_name != job_name:
        memory = BootstrapMemory(job_name)
    current = next(
        (each for each in observed if identity(each) == (JOB.kind, job_name) and controller_uid(each) == owner_uid),
        None,
    )
    if current is None:
        return BootstrapView(memory)
    if (current.get("status") or {}).get("succeeded"):
        return BootstrapView(BootstrapMemory(job_name), is_current=True)
    if not _has_failed(current):
        return BootstrapView(memory)
    uid = current["metadata"]["uid"]
    if memory.failed_uid != uid:
        memory = replace(
            memory,
            failure=_failure(pod for pod in pods if pod.controller_uid == uid),
            failed_uid=uid,
            retry_at=now + memory.pause_seconds,
            pause_seconds=min(2 * memory.pause_seconds, RETRY_SECONDS_MAX),
        )
    return BootstrapView(memory, retry=frozenset({job_name}) if now >= memory.retry_at else frozenset())


def _has_failed(job: Document) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Failed" and each["status"] == "True" for each in conditions)


def _failure(pods: Iterable[WorkerPod]) -> Failure:
    ended = [pod for pod in pods if pod.role is Role.BOOTSTRAP and pod.exit_code not in {None, 0}]
    if not ended:
        return Failure("bootstrap has failed, and its pod is gone; it is tried again", is_wrong_setting=False)
    last = ended[-1]
    message = problems_of(last.last_words) or f"bootstrap ended with exit code {last.exit_code}, without a word"
    return Failure(message, is_wrong_setting=last.exit_code == EXIT_WRONG_SETTINGS)
