"""What a worker says of itself: one reason, the troubles behind it, and facts, for `/status` and for metrics.

Each part of a worker that can be in trouble (`kafka`, `redis`, `node`, `tip`, `ledger`, `secret`, `halt`) reports its
own trouble and clears it when it is over, so that one part's recovery never hides another's fault. The worker's reason
is the first, in `Reason`'s order, of all troubles; without any it is what the role says of its progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from wallet_core.errors import Halt, KafkaUnreachable, RedisUnreachable, SecretMissing, Unavailable
from wallet_core.ports import Clock
from wallet_core.reasons import Reason, reason_of
from wallet_core.settings import Role

log = structlog.get_logger()

_ORDER = {reason: place for place, reason in enumerate(Reason)}


@dataclass(frozen=True)
class Trouble:
    """Something that keeps a worker from its work."""

    reason: Reason
    message: str
    """One line, with the remedy where there is one."""
    since_unix_seconds: float


class WorkerStatus:
    """The status of one worker process."""

    def __init__(self, role: Role, wallet: str, settings_hash: str, clock: Clock) -> None:
        self.role = role
        self.wallet = wallet
        self.settings_hash = settings_hash
        self._clock = clock
        self._troubles: dict[str, Trouble] = {}
        self._progress = Reason.CATCHING_UP
        self._facts: dict[str, object] = {}
        self._beat = clock.monotonic()

    def trouble(self, error: Unavailable | Halt) -> None:
        """Report that the part which an error names cannot work."""
        name = type(error).__name__
        message = f"{name} {error}" if isinstance(error, SecretMissing) else f"{name}: {error}"
        self.note(part_of(error), reason_of(error), message)

    def note(self, part: str, reason: Reason, message: str) -> None:
        """Report a part's trouble. The same trouble again is not logged again."""
        before = self._troubles.get(part)
        if before and (before.reason, before.message) == (reason, message):
            return
        since = before.since_unix_seconds if before and before.reason is reason else self._clock.unix_time()
        self._troubles[part] = Trouble(reason, message, since)
        log.warning("trouble", part=part, reason=str(reason), message=message)

    def clear(self, *parts: str) -> None:
        """Report that parts work."""
        for part in parts:
            if over := self._troubles.pop(part, None):
                log.info("trouble_over", part=part, reason=str(over.reason))

    def progress(self, reason: Reason) -> None:
        """Say how far the role is where no part is in trouble: Working or CatchingUp."""
        self._progress = reason

    def fact(self, **facts: object) -> None:
        """Set facts that `/status` shows; None takes one away."""
        self._facts.update(facts)
        self._facts = {name: value for name, value in self._facts.items() if value is not None}

    def beat(self) -> None:
        """Say that the worker's loop is alive; `/live` is the age of the last beat."""
        self._beat = self._clock.monotonic()

    @property
    def seconds_since_beat(self) -> float:
        """Age of the last beat."""
        return self._clock.monotonic() - self._beat

    @property
    def reason(self) -> Reason:
        """The first reason of all."""
        return min(
            (trouble.reason for trouble in self._troubles.values()), key=_ORDER.__getitem__, default=self._progress
        )

    def as_dict(self) -> Mapping[str, object]:
        """The document that `/status` serves."""
        first = min(self._troubles.values(), key=lambda trouble: _ORDER[trouble.reason], default=None)
        return {
            "role": str(self.role),
            "wallet": self.wallet,
            "settings_hash": self.settings_hash,
            "reason": str(self.reason),
            "message": first.message if first else "",
            "troubles": [
                {
                    "part": part,
                    "reason": str(trouble.reason),
                    "message": trouble.message,
                    "since": round(trouble.since_unix_seconds, 3),
                }
                for part, trouble in sorted(self._troubles.items())
            ],
            **self._facts,
        }


def part_of(error: Unavailable | Halt) -> str:
    """The part of a worker that an error of the world puts in trouble."""
    match error:
        case Halt():
            return "halt"
        case SecretMissing():
            return "secret"
        case KafkaUnreachable():
            return "kafka"
        case RedisUnreachable():
            return "redis"
        case _:
            return "node"
