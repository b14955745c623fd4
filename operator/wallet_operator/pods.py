"""What the API server knows of a worker's pod: where to ask it, and why it may be silent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wallet_core.settings import Role
from wallet_operator.kinds import ROLE_LABEL, WORKER_CONTAINER, Document, controller_uid, is_going

EXIT_WRONG_SETTINGS = 2
MESSAGE_LENGTH_MAX = 1024
_OVER = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class WorkerPod:
    """A pod of one of a wallet's roles."""

    name: str
    uid: str
    role: Role
    ip: str | None
    is_over: bool
    """Whether its container has ended for good."""
    is_going: bool
    is_ready: bool
    trouble: str
    """Why it does not run, in one line; empty where nothing is known to be wrong."""
    exit_code: int | None
    """Of the last life of its container that has ended."""
    last_words: str
    """What the container ended with: its termination message."""
    controller_uid: str | None = None
    """Of the Job or ReplicaSet that made it."""

    @property
    def lives(self) -> bool:
        """Whether it can be expected to answer."""
        return not self.is_over and not self.is_going

    @property
    def has_wrong_settings(self) -> bool:
        """Whether it ended because of its settings, which starting it again does not mend."""
        return self.exit_code == EXIT_WRONG_SETTINGS


def worker_pod(document: Document) -> WorkerPod | None:
    """The pod; None for one of no role of ours."""
    metadata, status = document["metadata"], document.get("status") or {}
    role = (metadata.get("labels") or {}).get(ROLE_LABEL)
    if role not in list(Role):
        return None
    containers = status.get("containerStatuses") or ()
    container: dict[str, Any] = next((each for each in containers if each["name"] == WORKER_CONTAINER), {})
    ended = _ended(container)
    return WorkerPod(
        name=metadata["name"],
        uid=metadata["uid"],
        role=Role(role),
        ip=status.get("podIP"),
        is_over=status.get("phase") in _OVER,
        is_going=is_going(document),
        is_ready=bool(container.get("ready")),
        trouble=_trouble(status, container),
        exit_code=ended.get("exitCode"),
        last_words=(ended.get("message") or "").strip(),
        controller_uid=controller_uid(document),
    )


def problems_of(last_words: str) -> str:
    """What a person must mend, from a termination message: a plain line, or the last lines of a JSON log."""
    problems: list[str] = []
    last_event = plain = ""
    for text in filter(None, map(str.strip, last_words.splitlines())):
        try:
            line = json.loads(text)
        except ValueError:
            plain = text
            continue
        if not isinstance(line, dict):
            continue
        if isinstance(line.get("problem"), str):
            problems.append(line["problem"])
        last_event = str(line.get("message") or line.get("event") or "")
    return shortened("; ".join(problems) or plain or last_event)


def shortened(text: str) -> str:
    """At most MESSAGE_LENGTH_MAX characters of it."""
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[: MESSAGE_LENGTH_MAX - 1] + "…"


def _ended(container: dict[str, Any]) -> dict[str, Any]:
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if ended := state.get("terminated"):
            return dict(ended)
    return {}


def _trouble(status: Document, container: dict[str, Any]) -> str:
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
        return shortened(": ".join(filter(None, (waiting["reason"], waiting.get("message")))))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return shortened(": ".join(filter(None, (condition.get("reason"), condition.get("message")))))
    return ""
