"""One operator at a time: a Lease of the operator's namespace, always, also where there is one replica only.

Who holds the Lease renews it every RENEW_SECONDS. Whoever else wants it takes it when it has seen no renewal for
TTL_SECONDS of its own clock; no two machines' clocks are compared. Every write names the resourceVersion that was
read, so of two that try one fails. The holder that cannot renew stops leading RENEW_DEADLINE_SECONDS after its last
renewal, which is sooner than anybody else may begin.

The Lease also keeps one note of the leader for its successor: whose turn it is in an upgrade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from wallet_core.ports import Clock
from wallet_operator.api import Api, ApiFailure, Conflict, NotThere
from wallet_operator.kinds import DOMAIN, LEASE, annotation

log = structlog.get_logger()

TTL_SECONDS = 15
RENEW_SECONDS = 4.0
RENEW_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 2.0
_NOTE = "upgrading"


class Election:
    """One candidate."""

    def __init__(
        self, api: Api, namespace: str, name: str, identity: str, clock: Clock, attempted: Callable[[], None]
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._attempted = attempted  # said before every try
        self._document: dict[str, Any] | None = None
        self._record: object = None  # what the last look at the Lease showed, and since when it has been so
        self._record_since = 0.0
        self._renewed_at = 0.0
        self.note = ""
        """What the last leader left, then what this one leaves; written with the next renewal."""
        self.noted = ""
        """What of it is in the Lease."""

    async def win(self) -> None:
        """Until this candidate leads."""
        while not await self._attempt(self._take):
            await self._clock.sleep(RETRY_SECONDS)
        log.info("leading", identity=self._identity)

    async def keep(self) -> None:
        """Until this candidate leads no more."""
        while self._document is not None:
            await self._clock.sleep(max(0.0, min(RENEW_SECONDS, self._seconds_left)))
            if self._seconds_left <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_left):
                    await self._attempt(self._renew)
        log.warning("lease_lost", identity=self._identity)

    @property
    def _seconds_left(self) -> float:
        return self._renewed_at + RENEW_DEADLINE_SECONDS - self._clock.monotonic()

    async def resign(self) -> None:
        """Let another one lead at once. Whatever is in the way, the Lease ends by itself."""
        if self._document is None:
            return
        try:
            await self._write({"holderIdentity": "", "leaseDurationSeconds": 1})
        except ApiFailure as error:
            log.warning("lease_not_given_back", message=str(error))

    async def _attempt(self, step: Callable[[], Awaitable[bool]]) -> bool:
        self._attempted()
        try:
            return await step()
        except ApiFailure as error:
            log.warning("lease_attempt_failed", error_code=error.error_code, message=str(error))
            return False

    async def _take(self) -> bool:
        try:
            found = await self._api.get(LEASE, self._namespace, self._name)
        except NotThere:
            return await self._create()
        spec = found.get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._record:
            self._record, self._record_since = record, self._clock.monotonic()
        holder = spec.get("holderIdentity")
        is_over = self._clock.monotonic() - self._record_since > (spec.get("leaseDurationSeconds") or TTL_SECONDS)
        if holder and holder != self._identity and not is_over:
            return False
        self.note = annotation(found, _NOTE) or ""
        self._document = dict(found)
        transitions = (spec.get("leaseTransitions") or 0) + (holder != self._identity)
        return await self._write_or_lose({"leaseTransitions": transitions, "acquireTime": self._now()})

    async def _create(self) -> bool:
        at = self._clock.monotonic()
        now = self._now()
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": TTL_SECONDS,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        try:
            self._document = dict(await self._api.create(LEASE, self._namespace, lease))
        except Conflict:
            return False
        self._renewed_at = at
        return True

    async def _renew(self) -> bool:
        try:
            await self._write(self._held())
        except NotThere:
            self._document = None
            return False
        except Conflict:  # no loss yet: the answer to an earlier renewal was lost, or somebody has annotated the Lease
            found = await self._api.get(LEASE, self._namespace, self._name)
            if (found.get("spec") or {}).get("holderIdentity") != self._identity:
                self._document = None
                return False
            self._document = dict(found)
            return await self._write_or_lose({})
        return True

    async def _write_or_lose(self, changes: dict[str, Any]) -> bool:
        try:
            await self._write({**self._held(), **changes})
        except (Conflict, NotThere):
            self._document = None
            return False
        return True

    def _held(self) -> dict[str, Any]:
        return {"holderIdentity": self._identity, "leaseDurationSeconds": TTL_SECONDS}

    async def _write(self, changes: dict[str, Any]) -> None:
        at = self._clock.monotonic()  # before the request: others may count from its arrival
        document, note = self._document or {}, self.note
        metadata = document["metadata"]
        annotations = {**(metadata.get("annotations") or {}), f"{DOMAIN}/{_NOTE}": note}
        changed = {
            **document,
            "metadata": {**metadata, "annotations": annotations},
            "spec": {**(document.get("spec") or {}), "renewTime": self._now(), **changes},
        }
        self._document = dict(await self._api.replace(LEASE, self._namespace, self._name, changed))
        self._renewed_at, self.noted = at, note

    def _now(self) -> str:
        """RFC 3339 with six fractional digits, which the API server insists on."""
        return datetime.fromtimestamp(self._clock.unix_time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
