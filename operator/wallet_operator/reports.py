"""What the workers said of themselves, and how long it counts.

A worker that does not answer keeps its last word for FRESH_SECONDS_MAX; then it is silent. The words of a pod that is
gone are forgotten at once: another one does its work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from wallet_core.settings import Role
from wallet_operator.pods import WorkerPod

FRESH_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Report:
    """One worker's word."""

    pod: WorkerPod
    document: Mapping[str, Any]
    """As `/status` serves it."""
    at: float
    """When it was given; monotonic seconds."""

    @property
    def settings_hash(self) -> str:
        """Of the settings that the worker runs with."""
        return str(self.document.get("settings_hash", ""))


@dataclass
class Reports:
    """The last words of one wallet's workers."""

    by_pod: dict[str, Report] = field(default_factory=dict)
    """By the pod's uid."""
    heard_at: dict[Role, float] = field(default_factory=dict)
    """When a role said something last, or was expected to for the first time; monotonic seconds."""

    def update(
        self,
        pods: Collection[WorkerPod],
        answers: Mapping[str, Mapping[str, Any] | None],
        expected: Collection[Role],
        now: float,
    ) -> None:
        """Take the answers (by the pod's uid) of those pods that live."""
        living = {pod.uid: pod for pod in pods if pod.lives}
        self.by_pod = {uid: report for uid, report in self.by_pod.items() if uid in living}
        for uid, document in answers.items():
            if document is not None and uid in living:
                self.by_pod[uid] = Report(living[uid], document, now)
                self.heard_at[living[uid].role] = now
        self.heard_at = {role: at for role, at in self.heard_at.items() if role in expected}
        for role in expected:
            self.heard_at.setdefault(role, now)

    def fresh(self, now: float) -> list[Report]:
        """The words that still count."""
        return [report for report in self.by_pod.values() if now - report.at <= FRESH_SECONDS_MAX]

    def silent(self, now: float) -> frozenset[Role]:
        """Roles of which nobody has said anything for too long."""
        return frozenset(role for role, at in self.heard_at.items() if now - at > FRESH_SECONDS_MAX)
