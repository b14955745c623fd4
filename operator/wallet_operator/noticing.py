"""Which events concern a wallet, and how much they ask for.

A change of a generation, of labels or annotations, a beginning or an end asks for a reconcile; any other change of an
object made from a wallet (its status) for a look. Any other change of the wallet itself asks for nothing: it is our own
writing of its status, and would trigger itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wallet_operator.kinds import WALLET_LABEL, WALLETS, Key
from wallet_operator.queue import Ask


class Noticing:
    """Remembers, for each object that there is, what it looked like last."""

    def __init__(self) -> None:
        self._marks: dict[str, object] = {}  # by uid

    def notice(self, event_type: str | None, body: Mapping[str, Any]) -> tuple[Key, Ask] | None:
        """What to look at; `event_type` is ADDED, MODIFIED, DELETED, or None where kopf has listed anew."""
        metadata = body["metadata"]
        is_wallet = body.get("kind") == WALLETS.kind
        name = metadata["name"] if is_wallet else (metadata.get("labels") or {}).get(WALLET_LABEL)
        if name is None:
            return None
        key = (metadata["namespace"], name)
        if event_type == "DELETED":
            self._marks.pop(metadata["uid"], None)
            return key, Ask.RECONCILE
        mark = tuple(
            _frozen(metadata.get(field)) for field in ("generation", "labels", "annotations", "deletionTimestamp")
        )
        if self._marks.get(metadata["uid"]) != mark:
            self._marks[metadata["uid"]] = mark
            return key, Ask.RECONCILE
        return None if is_wallet else (key, Ask.LOOK)


def _frozen(value: object) -> object:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value
