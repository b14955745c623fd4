"""What to do so that what there is becomes what is desired: a pure function, from values to actions.

- what is desired and ours is applied: all of it, or in between only what is new, differs or was changed by others
- what is ours and not desired is deleted
- what is desired and not ours stays as it is: somebody else's object is never applied over (`NameTaken`)
- a Job is made once: what it runs is in its name, and Kubernetes lets nobody change it

An object is ours if this very resource controls it. One that is being deleted is left alone until it is gone, and so is
one of a former resource of the same name: the garbage collector is on its way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wallet_operator.kinds import (
    JOB,
    Document,
    Kind,
    annotation,
    controller,
    controller_uid,
    identity,
    is_going,
    kind_of,
)
from wallet_operator.manifests import Manifest


class Why(StrEnum):
    """Why an object is applied."""

    NEW = "new"
    CHANGED = "changed"
    DRIFTED = "drifted"
    """Somebody seems to have changed it, though what is desired of it is the same."""
    RESYNC = "resync"


@dataclass(frozen=True)
class Apply:
    """Make an object what it should be."""

    manifest: Manifest
    why: Why
    uid: str | None = None
    """Of the object that is meant, where there is one: another of the same name is not applied to."""
    generation: int | None = None
    """That it had; another one afterwards shows that something was put right."""


@dataclass(frozen=True)
class Delete:
    """Remove an object of ours."""

    kind: Kind
    name: str
    uid: str


@dataclass(frozen=True)
class NameTaken:
    """An object of a desired name belongs to somebody else."""

    kind: Kind
    name: str
    by_former: bool = False
    """Whether to a resource of this wallet's name that was deleted, and the object goes after it."""


Action = Apply | Delete | NameTaken


@dataclass(frozen=True)
class Seen:
    """An object as it was when it was applied last."""

    generation: int
    replicas: int | None

    @classmethod
    def of(cls, document: Document) -> Seen:
        """From the API server's answer."""
        return cls(document["metadata"].get("generation", 0), (document.get("spec") or {}).get("replicas"))


def plan(
    desired: Sequence[Manifest],
    observed: Iterable[Document],
    owner_uid: str,
    *,
    everything: bool,
    seen: Mapping[str, Seen] | None = None,
    retry: Collection[str] = (),
    keep: Collection[tuple[str, str]] = (),
) -> list[Action]:
    """The actions, in the order in which they are to be done.

    `everything`: apply also what seems to be as it should. `seen`: by uid, for drift. `retry`: names of Jobs to delete
    although they are desired, so that they are made again. `keep`: identities that are neither applied nor deleted.
    """
    found = {identity(document): document for document in observed}
    wanted = {identity(manifest): manifest for manifest in desired}
    actions: list[Action] = []
    for what, manifest in wanted.items():
        document = found.get(what)
        if what in keep or (document is not None and is_going(document)):
            continue
        if document is None:
            actions.append(Apply(manifest, Why.NEW))
        elif controller_uid(document) != owner_uid:
            actions.append(NameTaken(kind_of(document), what[1], by_former=_is_of_former(document, manifest)))
        elif what[1] in retry:
            actions.append(Delete(kind_of(document), what[1], document["metadata"]["uid"]))
        elif kind_of(document) == JOB:
            continue
        elif why := _why(manifest, document, (seen or {}).get(document["metadata"]["uid"]), everything=everything):
            metadata = document["metadata"]
            actions.append(Apply(manifest, why, metadata["uid"], metadata.get("generation")))
    actions += [
        Delete(kind_of(document), what[1], document["metadata"]["uid"])
        for what, document in found.items()
        if what not in wanted and what not in keep and controller_uid(document) == owner_uid and not is_going(document)
    ]
    return actions


def _why(manifest: Manifest, document: Document, seen: Seen | None, *, everything: bool) -> Why | None:
    if annotation(manifest, "desired-hash") != annotation(document, "desired-hash"):
        return Why.CHANGED
    if seen is not None and _drifted(manifest, Seen.of(document), seen):
        return Why.DRIFTED
    return Why.RESYNC if everything else None


def _is_of_former(document: Document, manifest: Manifest) -> bool:
    names = ("apiVersion", "kind", "name")
    theirs, ours = controller(document), controller(manifest)
    return bool(theirs) and all(theirs.get(name) == ours.get(name) for name in names)


def _drifted(manifest: Manifest, now: Seen, then: Seen) -> bool:
    """Whether somebody may have changed what is ours to say. Replicas that we do not name are an autoscaler's."""
    if now.generation == then.generation:
        return False
    is_scaled_by_others = "replicas" not in manifest["spec"] and now.replicas != then.replicas
    return not is_scaled_by_others
