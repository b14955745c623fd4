"""What an audit compares: the books by the last event of each transfer, and the causes that a block shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from wallet_core.addresses import Address, checksum_address
from wallet_core.amounts import BaseUnits
from wallet_core.audits import NATIVE, AuditedAsset, Books, Cause, Change, Entry, explain, total, unconfirmed
from wallet_core.blocks import Header
from wallet_core.deposits import Announcement, Deposit, Kind, Status, announce, calculate_event_id
from wallet_core.messages import TransactionAsset

ALICE, BOB, TOKEN = (Address(bytes([each]) * 20) for each in (0xA1, 0xB0, 0xC0))
ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
TOK = TransactionAsset(symbol="TOK", contract=checksum_address(TOKEN), decimals=6)
TX = "0x" + "7a" * 32
HEADER = Header(30, "0x" + "b1" * 32, "0x" + "b0" * 32, 1_000)


def deposit(amount: int, kind: Kind = Kind.TRANSACTION, to: Address = ALICE, asset: TransactionAsset = ETH) -> Deposit:
    return Deposit(calculate_event_id(1, TX, kind, 0), TX, BOB, to, BaseUnits(amount), asset)


def event(sequence: int, status: str, made: Deposit, block: int = 30) -> bytes | None:
    said = Announcement(Status(status), made, block, HEADER.hash, 0, 1)
    return announce(said, sequence, 1, "/test").value


def entry(
    amount: int, kind: Kind = Kind.TRANSACTION, *, block_hash: str = HEADER.hash, status: str = "confirmed"
) -> Entry:
    return Entry(calculate_event_id(1, TX, kind, 0), 1, status, NATIVE, amount, 30, block_hash, TX)


def explained(
    amount: int, deposits: Sequence[Deposit] = (), published: Sequence[Entry] = (), **more: Any
) -> list[tuple[Cause, int | None]]:
    asset = AuditedAsset(NATIVE, ETH, first_block=more.pop("first_block", 1))
    change = Change(1, ALICE, asset, HEADER, amount, deposits, published, **more)
    found = explain(change)
    assert all((each.first_block, each.address) == (30, checksum_address(ALICE)) for each in found)
    return [(each.cause, each.amount) for each in found]


def test_the_last_event_by_sequence_holds_in_whatever_order_they_are_read() -> None:
    """Partitions are read side by side."""
    made = deposit(5)
    story = [event(1, "detected", made), event(2, "orphaned", made), event(3, "confirmed", made, block=31)]
    for order in permutations(story):
        books = Books({ALICE})
        for value in order:
            books.add(value)
        (live,) = books.live(ALICE, NATIVE, 0, 99)
        assert (live.status, live.block_number) == ("confirmed", 31)
    for order in permutations(story[:2]):
        books = Books({ALICE})
        for value in order:
            books.add(value)
        assert books.live(ALICE, NATIVE, 0, 99) == []


@pytest.mark.parametrize(
    "changed",
    [{"to": "0xA1" + "a1" * 19}, {"amount": "1" * 5_000}],
    ids=["a wrong checksum", "more digits than Python reads"],
)
def test_a_record_of_others_is_passed_over(changed: dict[str, str]) -> None:
    """Whoever may write to the topic ends no audit, and is not believed."""
    books = Books({ALICE})
    value = event(1, "confirmed", deposit(5))
    assert value is not None
    assert books.add(value)
    assert not books.add(json.dumps(json.loads(value) | {"sequence": 2} | changed).encode())
    assert [each.amount for each in books.live(ALICE, NATIVE, 0, 99)] == [5]


def test_only_what_was_asked_for_counts() -> None:
    """This address, this asset, these blocks."""
    books = Books({ALICE})
    for value in (
        event(1, "confirmed", deposit(5)),
        event(2, "confirmed", deposit(6, Kind.LOG, asset=TOK)),
        event(3, "confirmed", deposit(7, Kind.FRAME, to=BOB)),
    ):
        books.add(value)
    assert total(books.live(ALICE, NATIVE, 30, 30)) == 5
    assert total(books.live(ALICE, "0x" + TOKEN.hex(), 30, 30)) == 6
    assert books.live(ALICE, NATIVE, 0, 29) == books.live(ALICE, NATIVE, 31, 99) == books.live(BOB, NATIVE, 0, 99) == []


@pytest.mark.parametrize("value", [None, b"{}", b"\xff", b'{"type":"sweep"}'])
def test_what_is_no_deposits_event_is_passed_over_and_said(value: bytes | None) -> None:
    """Who writes garbage there must not be able to stop an audit."""
    books = Books({ALICE})
    assert not books.add(value)
    assert books.add(event(1, "confirmed", deposit(5)))
    assert total(books.live(ALICE, NATIVE, 0, 99)) == 5


def test_a_settled_transfer_that_is_only_detected_is_a_difference() -> None:
    """Of no amount: the balance is right."""
    (found,) = unconfirmed(ALICE, ETH, [entry(5), entry(5, status="detected")])
    assert (found.cause, found.amount, found.transactions) == (Cause.NOT_CONFIRMED, 0, (TX,))


def test_a_block_may_show_several_causes() -> None:
    """What each of them amounts to adds up to the whole."""
    inside = deposit(9, Kind.FRAME)
    found = explained(9 - 2 + 3 - 40, [deposit(5), inside], [entry(7)], funded=[(TX, 3)], sent=[TX])
    assert found == [(Cause.NOT_ON_CHAIN, -2), (Cause.NOT_PUBLISHED, 9), (Cause.FUNDING, 3), (Cause.SENT, -40)]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({}, Cause.NOT_PUBLISHED),
        ({"first_block": 30}, Cause.NOT_PUBLISHED),
        ({"first_block": 31}, Cause.BEFORE_WATCH),
        ({"address_unix_time": 1_000}, Cause.NOT_PUBLISHED),
        ({"address_unix_time": 1_001}, Cause.BEFORE_WATCH),
    ],
)
def test_before_watch_is_before_asset_or_address(more: dict[str, Any], cause: Cause) -> None:
    """In that very block, or at that very second, it was watched."""
    assert explained(5, [deposit(5)], **more) == [(cause, 5)]


@pytest.mark.parametrize(
    ("amount", "more", "cause"),
    [
        (4, {}, Cause.UNKNOWN),
        (4, {"is_traced": False}, Cause.TRACES_OFF),
        (4, {"is_traced": False, "sent": [TX]}, Cause.TRACES_OFF),
        (-4, {"is_traced": False, "sent": [TX]}, Cause.SENT),
        (-4, {}, Cause.UNKNOWN),
    ],
)
def test_what_nothing_in_the_block_explains(amount: int, more: dict[str, Any], cause: Cause) -> None:
    """Who paid may hold less, and not more."""
    assert explained(amount, **more) == [(cause, amount)]


def test_an_event_of_another_branch_is_not_on_the_chain() -> None:
    """Even where the same transfer is in this block: it was published for another."""
    other = entry(5, block_hash="0x" + "ff" * 32)
    assert explained(-5, [], [other]) == [(Cause.NOT_ON_CHAIN, -5)]
    assert explained(0, [deposit(5)], [other]) == [(Cause.NOT_ON_CHAIN, -5), (Cause.NOT_PUBLISHED, 5)]


def test_without_traces_only_what_is_in_sight_is_judged() -> None:
    """ETH inside a contract is out of sight; a transaction's own is not."""
    assert explained(1, [], [entry(4, Kind.FRAME)], is_traced=False) == [(Cause.TRACES_OFF, 1)]
    assert explained(-4, [], [entry(4)], is_traced=False) == [(Cause.NOT_ON_CHAIN, -4)]
    assert explained(-4, [], [entry(4, Kind.FRAME)]) == [(Cause.NOT_ON_CHAIN, -4)]
