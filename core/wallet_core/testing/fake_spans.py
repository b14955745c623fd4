"""The board on which spans are offered, on a `FakeRedis`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from wallet_core.ports import Clock, PutBack, SpanClaim
from wallet_core.spans import SPANS_POSTED_MAX
from wallet_core.testing.fake_redis import FakeRedis


@dataclass
class _Offer:
    span: bytes
    holder: str | None = None
    held_until: float = 0.0
    result: PutBack | None = None


@dataclass
class _Cut:
    name: str
    terms: bytes
    lives_until: float
    offers: dict[str, _Offer] = field(default_factory=dict)


class FakeSpanBoard:
    """Port `SpanBoard`. One object stands for one process."""

    def __init__(self, redis: FakeRedis, *, prefix: str, claim_ttl_ms: int, cut_ttl_ms: int, clock: Clock) -> None:
        self._redis = redis
        self._prefix = prefix
        self._claim_ttl_seconds = claim_ttl_ms / 1000
        self._cut_ttl_seconds = cut_ttl_ms / 1000
        self._clock = clock
        self._names = count(1)
        self._scanner = f"scanner-{next(redis.tokens)}"

    @property
    def scanner(self) -> str:
        """See the port."""
        return self._scanner

    async def open(self, terms: bytes) -> str:
        """See the port."""

        def script() -> str:
            name = f"{self._scanner}-{next(self._names)}"
            lives_until = self._clock.monotonic() + self._cut_ttl_seconds
            self._redis.structures[self._prefix] = _Cut(name, terms, lives_until)
            return name

        return self._redis.run(script)

    async def announce(self, cut: str, terms: bytes) -> bool:
        """See the port."""

        def script() -> bool:
            if (found := self._find(cut)) is None:
                return False
            found.terms, found.lives_until = terms, self._clock.monotonic() + self._cut_ttl_seconds
            return True

        return self._redis.run(script)

    async def post(self, cut: str, span: bytes) -> str | None:
        """See the port."""

        def script() -> str | None:
            found = self._find(cut)
            if found is None or len(found.offers) >= SPANS_POSTED_MAX:
                return None
            task = f"{next(self._redis.tokens)}-0"
            found.offers[task] = _Offer(span)
            return task

        return self._redis.run(script)

    async def take(self, cut: str, task: str) -> PutBack | None:
        """See the port."""

        def script() -> PutBack | None:
            offer = self._offer(cut, task)
            if offer is None or offer.result is None:
                return None
            self._end(cut, task)
            return offer.result

        return self._redis.run(script)

    async def withdraw(self, cut: str, task: str) -> None:
        """See the port."""
        self._redis.run(lambda: self._end(cut, task))

    async def close(self, cut: str) -> None:
        """See the port."""

        def script() -> None:
            if self._find(cut) is not None:
                del self._redis.structures[self._prefix]

        self._redis.run(script)

    async def terms(self) -> tuple[str, bytes] | None:
        """See the port."""

        def script() -> tuple[str, bytes] | None:
            found = self._find(None)
            return None if found is None else (found.name, found.terms)

        return self._redis.run(script)

    async def claim(self, cut: str) -> SpanClaim | None:
        """See the port."""

        def script() -> SpanClaim | None:
            found, now = self._find(cut), self._clock.monotonic()
            unanswered = {} if found is None else {t: o for t, o in found.offers.items() if o.result is None}
            late = [task for task, offer in unanswered.items() if offer.holder and offer.held_until <= now]
            new = [task for task, offer in unanswered.items() if not offer.holder]
            for task in (*late, *new):
                offer = unanswered[task]
                offer.holder, offer.held_until = self._scanner, now + self._claim_ttl_seconds
                return SpanClaim(cut, task, offer.span)
            return None

        return self._redis.run(script)

    async def renew(self, claim: SpanClaim) -> bool:
        """See the port."""

        def script() -> bool:
            offer = self._offer(claim.cut, claim.task)
            if offer is None or offer.result is not None or offer.holder != self._scanner:
                return False
            offer.held_until = self._clock.monotonic() + self._claim_ttl_seconds
            return True

        return self._redis.run(script)

    async def hand_back(self, claim: SpanClaim) -> None:
        """See the port."""

        def script() -> None:
            offer = self._offer(claim.cut, claim.task)
            if offer is not None and offer.result is None and offer.holder == self._scanner:
                offer.held_until = self._clock.monotonic()

        self._redis.run(script)

    async def put_back(self, claim: SpanClaim, result: bytes) -> bool:
        """See the port."""

        def script() -> bool:
            offer = self._offer(claim.cut, claim.task)
            if offer is None or offer.result is not None:
                return False
            offer.result = PutBack(self._scanner, result)
            return True

        return self._redis.run(script)

    def _find(self, cut: str | None) -> _Cut | None:
        """The cut that stands, if it is this one; None: whichever."""
        found = self._redis.structures.get(self._prefix)
        if not isinstance(found, _Cut) or found.lives_until <= self._clock.monotonic():
            return None
        return found if cut in (None, found.name) else None

    def _offer(self, cut: str, task: str) -> _Offer | None:
        found = self._find(cut)
        return None if found is None else found.offers.get(task)

    def _end(self, cut: str, task: str) -> None:
        if (found := self._find(cut)) is not None:
            found.offers.pop(task, None)
