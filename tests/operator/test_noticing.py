"""Which events lead to a look, and that the operator's own writing does not."""

from __future__ import annotations

from typing import Any

import pytest

from wallet_operator.noticing import Noticing
from wallet_operator.queue import Ask

KEY = ("wallets", "mainnet")


def wallet(**metadata: Any) -> dict[str, Any]:
    return {
        "kind": "WalletManager",
        "metadata": {"name": "mainnet", "namespace": "wallets", "uid": "w", "generation": 1, **metadata},
    }


def child(**metadata: Any) -> dict[str, Any]:
    labels = {"wallet-manager.dev/wallet": "mainnet"}
    base = {"name": "mainnet-sync", "namespace": "wallets", "uid": "c", "generation": 1, "labels": labels}
    return {"kind": "Deployment", "metadata": {**base, **metadata}}


def test_writing_the_status_does_not_trigger_itself() -> None:
    """Each write is an event, and a reconcile writes: 170 reconciles a second were seen without this."""
    noticing = Noticing()
    assert noticing.notice("ADDED", wallet()) == (KEY, Ask.RECONCILE)
    assert noticing.notice("MODIFIED", {**wallet(resourceVersion="2"), "status": {"block": 1}}) is None
    assert noticing.notice(None, wallet(resourceVersion="3")) is None, "listed anew, and as before"


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"uid": "another"},
    ],
)
def test_a_persons_change_is_reconciled(change: dict[str, Any]) -> None:
    """Whatever a person can change of a resource, and its being made anew under the same name."""
    noticing = Noticing()
    noticing.notice("ADDED", wallet())
    assert noticing.notice("MODIFIED", wallet(**change)) == (KEY, Ask.RECONCILE)


def test_the_status_of_a_child_asks_for_a_look() -> None:
    """A Job that ended or a rollout that is over shows soon; a changed spec is put right."""
    noticing = Noticing()
    assert noticing.notice("ADDED", child()) == (KEY, Ask.RECONCILE)
    assert noticing.notice("MODIFIED", {**child(), "status": {"replicas": 1}}) == (KEY, Ask.LOOK)
    assert noticing.notice("MODIFIED", child(generation=2)) == (KEY, Ask.RECONCILE)
    assert noticing.notice("DELETED", child(generation=2)) == (KEY, Ask.RECONCILE)


def test_what_belongs_to_no_wallet_is_passed_over() -> None:
    """Others use our labels too, or none."""
    assert Noticing().notice("ADDED", child(labels=None)) is None


def test_what_is_gone_is_forgotten() -> None:
    """Memory does not grow with every pod that ever was, and a uid that comes again is new."""
    noticing = Noticing()
    noticing.notice("ADDED", wallet())
    assert noticing.notice("DELETED", wallet()) == (KEY, Ask.RECONCILE)
    assert noticing.notice("ADDED", wallet()) == (KEY, Ask.RECONCILE)
