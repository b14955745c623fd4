"""Orders as values: what is one, what is refused, whose turn it is, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.errors import OrderRefused
from wallet_core.orders import (
    FINISHED_ORDERS_MAX,
    OPEN_RESCANS_MAX,
    OPEN_REWINDS_MAX,
    Cancel,
    OrderBook,
    OrderMessage,
    OrderState,
    OrderStatus,
    Rescan,
    Rewind,
    holds_urgent,
    newest_rewind_after_loss,
    parse_order,
    refused,
    take_orders,
)


def message(offset: int, **value: object) -> OrderMessage:
    return OrderMessage(offset, json.dumps(value).encode(), 0)


def rescan(offset: int, order_id: str | None = None) -> OrderMessage:
    return message(offset, id=order_id or f"r{offset}", type="rescan", from_block=1)


def rewind(offset: int, **more: object) -> OrderMessage:
    return message(offset, id=f"w{offset}", type="rewind", to=5, **more)


def cancel(offset: int, order: str) -> OrderMessage:
    return message(offset, id=f"c{offset}", type="cancel", order=order)


def test_the_orders() -> None:
    """With what may be left out left out."""
    assert parse_order(rescan(1).value) == Rescan(id="r1", type="rescan", from_block=1, to_block=None)
    assert parse_order(rewind(1).value) == Rewind(id="w1", type="rewind", to=5, after_loss=False)
    assert parse_order(cancel(1, "r0").value) == Cancel(id="c1", type="cancel", order="r0")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "no value"),
        (b"", "Invalid JSON"),
        (b"[]", "."),
        (b'{"id": "x", "type": "dance"}', "dance"),
        (b'{"id": "", "type": "rewind", "to": 1}', "rewind.id"),
        (b'{"id": "a/b", "type": "rewind", "to": 1}', "rewind.id"),
        (b'{"id": "x", "type": "rewind", "to": -1}', "rewind.to"),
        (b'{"id": "x", "type": "rewind", "to": "1"}', "rewind.to"),
        (b'{"id": "x", "type": "rewind", "to": true}', "rewind.to"),
        (b'{"id": "x", "type": "rescan", "from_block": 1.5}', "rescan.from_block"),
        (b'{"id": "x", "type": "rescan"}', "rescan.from_block"),
        (b'{"id": "x", "type": "cancel"}', "cancel.order"),
        (b'{"id": "x", "type": "cancel", "order": "a/b"}', "cancel.order"),
        (b"[" * 5000, "JSON"),
    ],
)
def test_what_is_no_order_is_refused_with_the_fault(value: bytes | None, named: str) -> None:
    """The outcome is all that its sender will ever see of it."""
    with pytest.raises(OrderRefused, match=named):
        parse_order(value)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=20))
def test_nothing_that_lies_in_the_topic_stops_the_book(values: list[bytes | None]) -> None:
    """Every message is taken, and each that is no order has its outcome, within the limit."""
    book = take_orders(OrderBook(), [OrderMessage(offset, value, 0) for offset, value in enumerate(values)], 10)
    assert book.position == len(values)
    assert len(book.orders) == len(values)
    assert {order.status for order in book.orders} <= {OrderStatus.REFUSED}


def test_turns() -> None:
    """Within each kind they come as they were taken; what is finished has no turn."""
    book = take_orders(OrderBook(), [rescan(0), rewind(1), rescan(2), rewind(3)], 10)
    turns = []
    while order := book.next_rewind:
        turns.append(order.id)
        book = book.with_order(refused(order, "done with"))
    assert turns == ["w1", "w3"]
    assert [order.id for order in book.unfinished("rescan")] == ["r0", "r2"]
    book = book.with_order(refused(book.unfinished("rescan")[0], "done with"))
    assert [order.id for order in book.unfinished("rescan")] == ["r2"]


def test_a_known_id_is_the_same_order() -> None:
    """Even after it is done: whoever sends again does not know that it arrived."""
    book = take_orders(OrderBook(), [rescan(0, "x")], 10)
    assert take_orders(book, [rescan(1, "x")], 20).orders == book.orders
    assert take_orders(book, [rescan(1, "x")], 20).position == 2


def test_the_last_block_of_a_rescan() -> None:
    """By default the newest one; a later one is not there yet; one before the first is none."""
    (taken,) = take_orders(OrderBook(), [rescan(0)], 7).orders
    assert (taken.from_block, taken.to_block, taken.next_block) == (1, 7, 1)
    messages = [
        message(n, id=f"x{n}", type="rescan", from_block=first, to_block=last)
        for n, (first, last) in enumerate([(1, 7), (1, 8), (3, 2)])
    ]
    statuses = [order.status for order in take_orders(OrderBook(), messages, 7).orders]
    assert statuses == [OrderStatus.ACCEPTED, OrderStatus.REFUSED, OrderStatus.REFUSED]


def test_how_many_may_wait() -> None:
    """The rest is refused, not forgotten. However many rescans wait, a rewind is taken: it may be what helps."""
    messages = [rescan(n) for n in range(OPEN_RESCANS_MAX + 2)] + [rewind(99)]
    book = take_orders(OrderBook(), messages, 10)
    statuses = [order.status for order in book.orders]
    assert statuses == [OrderStatus.ACCEPTED] * OPEN_RESCANS_MAX + [OrderStatus.REFUSED] * 2 + [OrderStatus.ACCEPTED]
    book = take_orders(OrderBook(), [rewind(n) for n in range(OPEN_REWINDS_MAX + 1)], 10)
    assert [order.status for order in book.orders][-2:] == [OrderStatus.ACCEPTED, OrderStatus.REFUSED]


def test_the_oldest_finished_orders_are_forgotten() -> None:
    """Those that are not finished never are."""
    book = take_orders(OrderBook(), [rescan(0)], 10)
    for n in range(1, FINISHED_ORDERS_MAX + 3):
        book = book.with_order(OrderState(f"d{n}", "rescan", n, OrderStatus.DONE, number=n + 1))
    assert [order.id for order in book.orders] == ["r0", *[f"d{n}" for n in range(3, FINISHED_ORDERS_MAX + 3)]]


def test_orders_of_a_topic_made_anew_come_after_those_before() -> None:
    """Though their offsets begin again: a new outcome is not the oldest one, and not forgotten at once."""
    book = OrderBook()
    for n in range(FINISHED_ORDERS_MAX):
        book = take_orders(book, [message(100 + n, id=f"old{n}", type="dance")], 10)
    book = take_orders(book, [message(0, id="bad", type="dance"), rescan(1, "new"), rescan(2, "newer")], 10)
    assert [order.id for order in book.orders[-3:]] == ["offset-0", "new", "newer"]
    assert book.orders[0].id == "offset-101"


# --- ending an order -----------------------------------------------------------------------------------------------


def test_an_order_is_ended_by_its_id() -> None:
    """It has no turn any more; the outcome says who ended it, and what it published holds."""
    book = take_orders(OrderBook(), [rescan(0), rewind(1)], 10)
    book = book.with_order(replace(book.orders[0], status=OrderStatus.RUNNING, published=3))
    book = take_orders(book, [cancel(2, "r0"), cancel(3, "w1")], 10)
    assert [order.status for order in book.orders] == [OrderStatus.CANCELLED] * 2 + [OrderStatus.DONE] * 2
    assert (book.orders[0].published, "c2" in book.orders[0].message) == (3, True)
    assert (book.next_rewind, book.unfinished("rescan")) == (None, [])


@pytest.mark.parametrize(
    ("order_id", "why"), [("nobody", "no order nobody"), ("r0", "done already"), ("w1", "only be finished")]
)
def test_what_cannot_be_ended(order_id: str, why: str) -> None:
    """A rewind under way has taken transfers back for a chain that it has to follow."""
    book = take_orders(OrderBook(), [rescan(0), rewind(1)], 10)
    book = book.with_order(replace(book.orders[0], status=OrderStatus.DONE))
    book = book.with_order(replace(book.orders[1], status=OrderStatus.RUNNING))
    after = take_orders(book, [cancel(2, order_id)], 10)
    assert after.orders[:2] == book.orders
    assert (after.orders[2].status, why in after.orders[2].message) == (OrderStatus.REFUSED, True)


def test_which_messages_hold_a_rewind() -> None:
    """A halted leader looks for that and for cancels only; bootstrap for the newest one for a lost checkpoint."""
    assert not holds_urgent([rescan(0), OrderMessage(1, b"x", 0)])
    assert holds_urgent([rescan(0), rewind(1)])
    assert holds_urgent([rescan(0), cancel(1, "r0")])
    assert newest_rewind_after_loss([rewind(0), rescan(1)]) is None
    found = newest_rewind_after_loss([rewind(0, after_loss=True), rewind(1, after_loss=True), rewind(2)])
    assert found is not None
    assert (found[0].id, found[1].offset) == ("w1", 1)
    found = newest_rewind_after_loss([rewind(0, after_loss=True), rewind(1, after_loss=True), cancel(2, "w1")])
    assert found is not None
    assert found[0].id == "w0"
