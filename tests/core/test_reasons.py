"""The one word that says why a worker is not simply working."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wallet_core.errors as errors_module
from wallet_core.errors import (
    CheckpointLost,
    Halt,
    KafkaUnreachable,
    KeyMismatch,
    NodeInconsistent,
    RedisUnreachable,
    RpcUnreachable,
    SecretMissing,
    Unavailable,
    WalletError,
    WrongChain,
)
from wallet_core.reasons import Reason, reason_of


def family(root: type[WalletError]) -> list[type[WalletError]]:
    return [root, *(each for child in root.__subclasses__() for each in family(child))]


def test_the_first_reason_is_the_one_that_a_person_must_mend() -> None:
    """Dashboards and conditions rely on this order: causes before consequences."""
    assert [reason.value for reason in Reason] == [
        "InvalidSpec",
        "Halted",
        "WrongChain",
        "SecretMissing",
        "BootstrapFailing",
        "KafkaUnreachable",
        "RedisUnreachable",
        "RpcUnreachable",
        "TipStale",
        "NoLeader",
        "CatchingUp",
        "Working",
    ]


@pytest.mark.parametrize("error", [*family(Unavailable), *family(Halt)], ids=lambda error: error.__name__)
def test_every_trouble_of_the_world_has_a_reason(error: type[Unavailable | Halt]) -> None:
    """A new error class cannot leave `/status` without a word."""
    reason = reason_of(error("x"))
    assert reason not in (Reason.WORKING, Reason.CATCHING_UP)
    assert (reason is Reason.HALTED) == issubclass(error, Halt)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyMismatch, Reason.HALTED),
        (CheckpointLost, Reason.HALTED),
        (WrongChain, Reason.WRONG_CHAIN),
        (SecretMissing, Reason.SECRET_MISSING),
        (KafkaUnreachable, Reason.KAFKA_UNREACHABLE),
        (RedisUnreachable, Reason.REDIS_UNREACHABLE),
        (RpcUnreachable, Reason.RPC_UNREACHABLE),
        (NodeInconsistent, Reason.RPC_UNREACHABLE),
    ],
)
def test_an_error_gives_the_reason_of_its_side(error: type[Unavailable | Halt], reason: Reason) -> None:
    """Whoever is on call goes to the right service first."""
    assert reason_of(error("x")) is reason


def test_error_codes_are_words_of_their_own() -> None:
    """Users match on a code, so no two errors share one."""
    codes = [error.error_code for error in family(errors_module.WalletError)]
    assert len(codes) == len(set(codes))
    assert all(code.isascii() and code.islower() and code.replace("_", "").isalnum() for code in codes)


@given(st.sampled_from([*family(Unavailable), *family(Halt)]), st.text())
def test_what_an_error_says_does_not_change_its_reason(kind: type[Unavailable] | type[Halt], text: str) -> None:
    """Alerts match on the reason; the text is for a person and may hold anything."""
    assert reason_of(kind(text)) == reason_of(kind("something else"))
