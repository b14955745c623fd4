"""Why a worker or a wallet is not simply working: one word, the same in `/status`, metrics, conditions and alerts.

Where several hold at once the first of this list wins: causes stand before their consequences, and what a person must
mend before what mends itself.
"""

from __future__ import annotations

from enum import StrEnum

from wallet_core.errors import (
    Halt,
    KafkaUnreachable,
    RedisUnreachable,
    SecretMissing,
    Unavailable,
    WalletError,
    WrongChain,
)


class Reason(StrEnum):
    """In order of precedence."""

    INVALID_SPEC = "InvalidSpec"
    HALTED = "Halted"
    WRONG_CHAIN = "WrongChain"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - the word, not a secret
    BOOTSTRAP_FAILING = "BootstrapFailing"
    KAFKA_UNREACHABLE = "KafkaUnreachable"
    REDIS_UNREACHABLE = "RedisUnreachable"
    RPC_UNREACHABLE = "RpcUnreachable"
    TIP_STALE = "TipStale"
    NO_LEADER = "NoLeader"
    CATCHING_UP = "CatchingUp"
    WORKING = "Working"


_REASON_OF_ERROR: tuple[tuple[type[WalletError], Reason], ...] = (
    (Halt, Reason.HALTED),
    (WrongChain, Reason.WRONG_CHAIN),
    (SecretMissing, Reason.SECRET_MISSING),
    (KafkaUnreachable, Reason.KAFKA_UNREACHABLE),
    (RedisUnreachable, Reason.REDIS_UNREACHABLE),
    (Unavailable, Reason.RPC_UNREACHABLE),  # what is left is a node's: RpcUnreachable, NodeInconsistent
)


def reason_of(error: Unavailable | Halt) -> Reason:
    """The reason that an error of the world gives to `/status`."""
    return next(reason for kind, reason in _REASON_OF_ERROR if isinstance(error, kind))
