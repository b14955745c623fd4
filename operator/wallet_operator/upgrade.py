"""One wallet at a time, where the operator itself, and no user, would change what a wallet runs.

**What an upgrade is.** After a chart upgrade the same resources would have other pods: of another default image, or of
a template that the operator's own code has changed. `hold_back` finds that, and what is applied meanwhile: the wallet
with the image that it has, and without the Deployments whose template is not the user's doing. So a user's edit is
carried out at once, and what somebody deletes is made again; where the template waits, its replicas wait with it.

**Who may go.** One wallet has the turn. Those that work go first: one that does not work goes when none that works has
asked for PATIENCE_SECONDS. Nothing is changed before the turn is noted in the operator's Lease, so that a new leader
knows of it.

**Who holds.** A wallet that worked keeps the turn until it is Ready with all that is wanted of it, so a bad release
harms one wallet. If that takes longer than the operator's settings allow, the operator says so, and all wait on. One
that did not work has nothing to lose and may never become Ready: it holds only until one that works asks.

**When it passes on.** When the wallet is Ready with it, paused, deleted, or in a namespace that is not served any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from wallet_core.ports import Clock
from wallet_operator.kinds import DEPLOYMENT, JOB, Document, Key, annotation, controller_uid, identity
from wallet_operator.manifests import Manifest, Wanted, desired

PATIENCE_SECONDS = 30.0
"""Longer than a change of leaders in Kafka or in `sync`, in which no wallet works for a moment."""


@dataclass(frozen=True)
class Turn:
    """The one wallet that is being upgraded."""

    key: Key
    since_unix_seconds: float
    worked: bool
    """Whether it did before: it then keeps the turn until it does again."""

    def to_text(self) -> str:
        """For an annotation."""
        return json.dumps({"wallet": "/".join(self.key), "since": self.since_unix_seconds, "worked": self.worked})

    @classmethod
    def from_text(cls, text: str) -> Turn | None:
        """What an annotation says; None where it is empty or says nothing sensible."""
        try:
            found = json.loads(text)
            namespace, _, name = found["wallet"].partition("/")
            return cls((namespace, name), float(found["since"]), bool(found["worked"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class Notes(Protocol):
    """What one leader leaves for the next; see Election."""

    note: str
    """What the last leader left, then what this one leaves."""

    @property
    def noted(self) -> str:
        """What of it is certainly kept by now."""


class Turns:
    """Hands out the turn."""

    def __init__(self, clock: Clock, notes: Notes, *, ready_seconds_max: float, namespaces: Sequence[str]) -> None:
        """`namespaces`: those that are served; none: all."""
        self._clock = clock
        self._notes = notes
        self._ready_seconds_max = ready_seconds_max
        self._working_asked_at = clock.monotonic()  # none may have been heard yet
        self.turn = Turn.from_text(notes.note)
        if self.turn is not None and namespaces and self.turn.key[0] not in namespaces:
            self._set(None)

    def ask(self, key: Key, *, works: bool) -> bool:
        """Whether a wallet may be upgraded now. It asks again at every look until then."""
        now = self._clock.monotonic()
        if works:
            is_free = self.turn is None or not self.turn.worked
            self._working_asked_at = now
        else:
            is_free = self.turn is None and now - self._working_asked_at >= PATIENCE_SECONDS
        if is_free:
            self._set(Turn(key, self._clock.unix_time(), works))
        return self.turn is not None and self.turn.key == key and self._notes.noted == self.turn.to_text()

    def done(self, key: Key) -> None:
        """A wallet is Ready with all that is wanted of it, or the operator does not change it any more."""
        if self.turn is not None and self.turn.key == key:
            self._set(None)

    def _set(self, turn: Turn | None) -> None:
        self.turn = turn
        self._notes.note = turn.to_text() if turn else ""

    def is_of(self, key: Key) -> bool:
        """Whether it is that wallet's turn, noted or not."""
        return self.turn is not None and self.turn.key == key

    @property
    def is_stuck(self) -> bool:
        """Whether the upgrade has stopped: the one whose turn it is did not become Ready in time."""
        passed = self._clock.unix_time() - self.turn.since_unix_seconds if self.turn else 0.0
        return passed > self._ready_seconds_max

    def why_waiting(self, key: Key) -> str:
        """One line for the status of a wallet that may not be upgraded now."""
        if self.turn is None:
            return "waits for its turn in an upgrade of the operator; those that work go first"
        if self.is_of(key):
            return "its turn in an upgrade of the operator begins"
        other = "/".join(self.turn.key)
        if self.is_stuck:
            return f"the upgrade has stopped: wallet {other} is not Ready with it after {self._ready_seconds_max:g} s"
        return f"waits for its turn in an upgrade of the operator; wallet {other} has it"


@dataclass(frozen=True)
class Decision:
    """What a wallet should be for now."""

    now: list[Manifest]
    keep: frozenset[tuple[str, str]] = frozenset()
    """Of these and of what there is: what stays as it is."""
    waits_for: str = ""
    """Why that is not all."""


def hold_back(wanted: Wanted, target: list[Manifest], observed: Iterable[Document]) -> Decision | None:
    """What to apply of a wallet whose turn it is not; None where `target`, all that is wanted, needs no turn."""
    ours = [document for document in observed if controller_uid(document) == wanted.uid]
    running = {identity(document): document for document in ours if document["kind"] == DEPLOYMENT.kind}
    image = next(filter(None, (annotation(each, "operator-image") for each in running.values())), None)
    held = desired(replace(wanted, operator_image=image or wanted.operator_image))
    keep = {
        what
        for manifest in held
        if (what := identity(manifest)) in running and _is_operators_doing(manifest, running[what])
    }
    if not keep and _templates(held, running) == _templates(target, running):
        return None
    if keep and any((job.get("status") or {}).get("succeeded") for job in ours):
        # Its bootstrap was made by the older code too, and need not run again.
        keep |= {identity(each) for each in (*held, *ours) if each["kind"] == JOB.kind}
    return Decision(held, frozenset(keep))


def _is_operators_doing(manifest: Manifest, document: Document) -> bool:
    """Whether a Deployment's pods would change though the resource says the same of them as when they were made.

    Its generation moves with what concerns no pod; the hash may move with the operator's code. An edit moves both.
    """
    differs = {
        name
        for name in ("template-hash", "settings-hash", "settings-generation", "applied-generation", "resource-hash")
        if annotation(manifest, name) != annotation(document, name)
    }
    if "settings-generation" in differs and "settings-hash" not in differs:
        return False  # the same settings under another generation: without it nobody could lead
    return "template-hash" in differs and not {"applied-generation", "resource-hash"} <= differs


def _templates(manifests: Iterable[Manifest], running: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
    return {identity(each): annotation(each, "template-hash") for each in manifests if identity(each) in running}
