"""The one place that changes a wallet's objects and writes its status: carries out what `plan` and `status` decided."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from wallet_operator.api import Api, ApiRefused, Conflict, Forbidden, Invalid, NotThere
from wallet_operator.kinds import CHILD_KINDS, EVENT, MANAGER, POD, WALLET_LABEL, WALLETS, Document, Key, identity
from wallet_operator.kinds import kind_of as kind_of_document
from wallet_operator.manifests import Manifest
from wallet_operator.plan import Action, Apply, Delete, NameTaken, Seen, Why
from wallet_operator.status import rfc3339

log = structlog.get_logger()


@dataclass
class Outcome:
    """What came of a plan."""

    seen: dict[str, Seen] = field(default_factory=dict)
    """What was applied, by uid."""
    applied: list[Apply] = field(default_factory=list)
    deleted: list[Delete] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    """What the API server will never take, each with its words."""
    drifted: list[Apply] = field(default_factory=list)
    """What somebody had changed, and was put right."""
    taken: list[str] = field(default_factory=list)
    """Objects of others that have the wallet's names."""
    former: list[str] = field(default_factory=list)
    """Those of a resource of the same name that is gone: they go after it."""
    forbidden: list[str] = field(default_factory=list)
    """What it does not take now: rights, a quota, an admission rule."""
    interrupted: bool = False
    """Whether an object changed or went meanwhile: look again soon."""


async def list_children(api: Api, key: Key) -> list[Document]:
    """Every object that carries the wallet's label, whoever controls it."""
    namespace, name = key
    found: list[Document] = []
    for kind in CHILD_KINDS:
        found += await api.list(kind, namespace, labels=f"{WALLET_LABEL}={name}")
    return found


async def list_namesakes(api: Api, desired: Iterable[Manifest], observed: Iterable[Document]) -> list[Document]:
    """Objects of desired names that the label does not find: somebody else's, or ours without their label.

    Found by a list of one name, so that no right to get is needed.
    """
    known = {identity(document) for document in observed}
    found: list[Document] = []
    for manifest in desired:
        if identity(manifest) not in known:
            metadata = manifest["metadata"]
            kind = kind_of_document(manifest)
            found += await api.list(kind, metadata["namespace"], fields=f"metadata.name={metadata['name']}")
    return found


async def list_pods(api: Api, key: Key) -> list[Document]:
    """The wallet's pods."""
    namespace, name = key
    return list(await api.list(POD, namespace, labels=f"{WALLET_LABEL}={name}"))


async def carry_out(api: Api, key: Key, actions: Sequence[Action]) -> Outcome:
    """Do what was planned. One object's refusal does not keep the others. Raises ApiUnreachable."""
    outcome = Outcome()
    namespace = key[0]
    for action in actions:
        try:
            match action:
                case Apply():
                    await _apply(api, key, action, outcome)
                case Delete(kind, name, uid):
                    await api.delete(kind, namespace, name, uid)
                    outcome.deleted.append(action)
                    log.info("deleted", wallet="/".join(key), kind=kind.kind, name=name)
                case NameTaken(kind, name, by_former):
                    (outcome.former if by_former else outcome.taken).append(f"{kind.kind} {name}")
        except (Conflict, NotThere) as error:
            outcome.interrupted = True
            log.info("changed_meanwhile", wallet="/".join(key), message=str(error))
        except ApiRefused as error:
            _note_refusal(action, error, outcome)
            log.warning("refused", wallet="/".join(key), message=str(error))
    return outcome


async def _apply(api: Api, key: Key, action: Apply, outcome: Outcome) -> None:
    manifest = action.manifest
    if action.uid is not None:  # the API server refuses where the name belongs to another object by now
        manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": action.uid}}
    document = await api.apply(kind_of_document(manifest), manifest, MANAGER)
    outcome.seen[document["metadata"]["uid"]] = Seen.of(document)
    outcome.applied.append(action)
    if action.why is Why.DRIFTED and Seen.of(document).generation != action.generation:
        outcome.drifted.append(action)
    if action.why is not Why.RESYNC:
        kind, name = identity(manifest)
        log.info("applied", wallet="/".join(key), kind=kind, name=name, why=str(action.why))


def _note_refusal(action: Action, error: ApiRefused, outcome: Outcome) -> None:
    if isinstance(action, Apply) and action.why is Why.RESYNC:
        return  # nothing is known to be amiss with the object: the log says it, and the wallet's status does not
    what = " ".join(identity(action.manifest)) if isinstance(action, Apply) else str(action)
    match error:
        case Invalid():
            outcome.invalid.append(f"the API server refuses {what}: {error.message}")
        case Forbidden():
            outcome.forbidden.append(f"the API server forbids {what}: {error.message}")
        case _:
            raise error


async def write_status(api: Api, wallet: Document, status: Mapping[str, Any]) -> None:
    """Write the whole status. Raises Conflict where the resource is not as it was read any more."""
    await api.merge_status(WALLETS, wallet, status)


async def record_event(
    api: Api, wallet: Document, reason: str, message: str, *, is_warning: bool, unix_seconds: float
) -> None:
    """Say something in `kubectl describe`. It is lost where the API server does not take it: nothing rests on it."""
    metadata, now = wallet["metadata"], rfc3339(unix_seconds)
    event = {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": WALLETS.api_version,
            "kind": WALLETS.kind,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if is_warning else "Normal",
        "reason": reason,
        "message": message,
        "source": {"component": MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await api.create(EVENT, metadata["namespace"], event)
    except ApiRefused as error:
        log.warning("event_refused", wallet=metadata["name"], message=str(error))
