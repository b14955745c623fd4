"""What a worker says of itself."""

from __future__ import annotations

import pytest

from wallet_core.errors import (
    ForkBelowWindow,
    Halt,
    KafkaUnreachable,
    NodeInconsistent,
    RedisUnreachable,
    RpcUnreachable,
    SecretMissing,
    Unavailable,
    WrongChain,
)
from wallet_core.reasons import Reason
from wallet_core.settings import Role
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus


@pytest.fixture
def status(clock: FakeClock) -> WorkerStatus:
    return WorkerStatus(Role.SYNC, "wallets.mainnet", "cafe", clock)


def parts(status: WorkerStatus) -> list[tuple[object, object]]:
    troubles = status.as_dict()["troubles"]
    assert isinstance(troubles, list)
    return [(each["part"], each["reason"]) for each in troubles]


def test_a_new_worker_is_catching_up(status: WorkerStatus) -> None:
    """It claims nothing before it has done something."""
    assert status.as_dict() == {
        "role": "sync",
        "wallet": "wallets.mainnet",
        "settings_hash": "cafe",
        "reason": "CatchingUp",
        "message": "",
        "troubles": [],
    }


def test_without_trouble_progress_is_the_reason(status: WorkerStatus) -> None:
    """And with trouble it is not."""
    status.progress(Reason.WORKING)
    assert status.as_dict()["reason"] == "Working"
    status.note("tip", Reason.TIP_STALE, "old")
    assert status.as_dict()["reason"] == "TipStale"


def test_the_first_reason_of_all_wins(status: WorkerStatus) -> None:
    """The message is that of the trouble to mend first; the others are listed."""
    status.trouble(RpcUnreachable("no node"))
    status.trouble(KafkaUnreachable("no broker"))
    assert (status.reason, status.as_dict()["message"]) == (Reason.KAFKA_UNREACHABLE, "KafkaUnreachable: no broker")
    status.trouble(ForkBelowWindow("gone"))
    assert (status.reason, status.as_dict()["message"]) == (Reason.HALTED, "ForkBelowWindow: gone")
    assert parts(status) == [("halt", "Halted"), ("kafka", "KafkaUnreachable"), ("node", "RpcUnreachable")]


def test_one_parts_recovery_does_not_hide_anothers_fault(status: WorkerStatus) -> None:
    """Each part clears its own trouble only."""
    status.progress(Reason.WORKING)
    status.trouble(RpcUnreachable("no node"))
    status.trouble(RedisUnreachable("no redis"))
    status.clear("redis", "kafka")
    assert status.as_dict()["reason"] == "RpcUnreachable"
    status.clear("node")
    assert status.as_dict()["reason"] == "Working"


@pytest.mark.parametrize(
    ("error", "part", "message"),
    [
        (ForkBelowWindow("x"), "halt", "ForkBelowWindow: x"),
        (SecretMissing("accounts/xpub"), "secret", "SecretMissing accounts/xpub"),
        (KafkaUnreachable("x"), "kafka", "KafkaUnreachable: x"),
        (RedisUnreachable("x"), "redis", "RedisUnreachable: x"),
        (RpcUnreachable("x"), "node", "RpcUnreachable: x"),
        (WrongChain("x"), "node", "WrongChain: x"),
        (NodeInconsistent("x"), "node", "NodeInconsistent: x"),
    ],
)
def test_a_trouble_is_put_down_to_its_part(
    status: WorkerStatus, error: Unavailable | Halt, part: str, message: str
) -> None:
    """Whoever reads it knows where to look, and the error's own name stays in the message."""
    status.trouble(error)
    assert status.as_dict()["message"] == message
    assert [found for found, _ in parts(status)] == [part]


def test_a_trouble_lasts_since_its_reason_first_held(status: WorkerStatus, clock: FakeClock) -> None:
    """A message that changes with each try does not make the outage look young; another reason begins anew."""

    def since() -> float:
        troubles = status.as_dict()["troubles"]
        assert isinstance(troubles, list)
        return float(troubles[0]["since"]) - 1_700_000_000

    clock.advance(5)
    status.trouble(RpcUnreachable("no connection"))
    clock.advance(5)
    status.trouble(RpcUnreachable("timed out"))
    assert (since(), status.as_dict()["message"]) == (5, "RpcUnreachable: timed out")
    status.trouble(WrongChain("chain 5"))
    assert since() == 10
    status.clear("node")
    clock.advance(5)
    status.trouble(RpcUnreachable("no connection"))
    assert since() == 15


def test_facts_are_shown_until_they_are_taken_away(status: WorkerStatus) -> None:
    """Numbers of the role stand beside the reason; None takes a fact away."""
    status.fact(block=5, tip=7)
    status.fact(block=6)
    shown = status.as_dict()
    assert (shown["block"], shown["tip"]) == (6, 7)
    status.fact(tip=None)
    assert "tip" not in status.as_dict()


def test_the_beat_ages(status: WorkerStatus, clock: FakeClock) -> None:
    """`/live` rests on it."""
    clock.advance(7)
    assert status.seconds_since_beat == 7
    status.beat()
    assert status.seconds_since_beat == 0


def test_metrics_show_the_current_reason_only(status: WorkerStatus) -> None:
    """Alerts match on one series per reason."""
    registry = Metrics(status).registry
    status.trouble(WrongChain("chain 5"))
    values = {reason: registry.get_sample_value("wallet_reason", {"reason": reason.value}) for reason in Reason}
    assert [reason for reason, value in values.items() if value == 1.0] == [Reason.WRONG_CHAIN]
    assert set(values.values()) == {0.0, 1.0}
