"""How an endpoint's head is judged: whether it goes back, and whether it is stale.

- A tip below the same endpoint's last one is a fork, or a late node behind the same URL. It is counted and handed on:
  the automaton tells the two apart by the hash, waits for a late node, and rolls back for a fork.
- A finalized block below the last one contradicts finality, or comes from a late node. It is counted and handed on:
  what was confirmed stays confirmed.
- A stale tip (`wallet_core.tip`) is counted, and every usable endpoint is asked, for as long as there is a stale one:
  the first whose tip is fresh answers instead, and stale ones come last for all other questions. Where none is fresh
  the first one's head stands, and `/status` says `TipStale`. Endpoints that failed come back meanwhile as always.

Behind one URL another node may be further on: after a tip that is stale or goes back, the next question to that
endpoint goes over another connection.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from wallet_core.blocks import Head
from wallet_core.ports import Clock
from wallet_core.tip import TipWatch
from wallet_workers.adapters.endpoints import Endpoints, Member, Question
from wallet_workers.adapters.json_rpc import EndpointFault, Fault


@dataclass
class _Seen:
    """An endpoint's heads so far."""

    tips: TipWatch
    tip: int = -1
    finalized: int = -1


class HeadJudge:
    """Asks for heads, and remembers what each endpoint said."""

    def __init__(self, endpoints: Endpoints, clock: Clock, stale_after_seconds: float) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._seen = {member: _Seen(TipWatch(stale_after_seconds)) for member in endpoints.members}

    async def head(self, question: Question[Head]) -> Head:
        """The head of the first endpoint with a fresh one; a stale one where none is fresh. Raises like `from_any`."""
        answers: dict[Member, Head] = {}
        if not any(member.is_stale for member in self._endpoints.members):
            first, head = await self._endpoints.from_any(question)
            if self._is_fresh(first, head):
                return head
            answers[first] = head
        self._endpoints.prove_beside()  # who is back may be the one with a fresh tip
        others = [member for member in self._endpoints.members if member.is_usable and member not in answers]
        heads = await asyncio.gather(*(self._ask(member, question) for member in others))
        answers |= {member: head for member, head in zip(others, heads, strict=True) if head is not None}
        if not answers:
            first, head = await self._endpoints.from_any(question)
            self._is_fresh(first, head)
            return head
        return next((head for member, head in answers.items() if not member.is_stale), next(iter(answers.values())))

    async def _ask(self, member: Member, question: Question[Head]) -> Head | None:
        try:
            head = await self._endpoints.from_one(member, question)
        except EndpointFault:
            return None
        self._is_fresh(member, head)
        return head

    def _is_fresh(self, member: Member, head: Head) -> bool:
        seen = self._seen[member]
        if head.tip.number < seen.tip:
            self._endpoints.note_suspicion(member, Fault.TIP_BACK)
            member.channels.generation += 1
        seen.tip = head.tip.number
        if head.finalized is not None:
            if head.finalized.number < seen.finalized:
                self._endpoints.note_suspicion(member, Fault.FINALIZED_BACK)
            seen.finalized = head.finalized.number
        stale_seconds = seen.tips.stale_seconds(
            head.tip, unix_time=self._clock.unix_time(), monotonic=self._clock.monotonic()
        )
        member.is_stale = stale_seconds is not None
        if member.is_stale:
            self._endpoints.note_suspicion(member, Fault.STALE)
            member.channels.generation += 1
        return not member.is_stale
