"""`walletctl sync`: the order that is sent, and the outcome that is waited for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from wallet_cli.sync import OrderTopics, describe, follow, send
from wallet_core.chain import BlockRef, Window
from wallet_core.checkpoint import SyncState, state_records
from wallet_core.messages import Topic
from wallet_core.orders import Cancel, Order, OrderBook, OrderState, OrderStatus, Rescan, Rewind, parse_order
from wallet_core.testing.fake_clock import FakeClock

ACCEPTED = OrderState("mine", "rescan", 3, OrderStatus.ACCEPTED, from_block=1, to_block=9, next_block=1)
OTHER = OrderState("other", "rescan", 1, OrderStatus.DONE)


def topic(*orders: OrderState) -> Mapping[bytes, bytes]:
    """What the state topic holds with these orders."""
    state = SyncState(Window(BlockRef(7, "0x7")), orders=OrderBook(4, orders))
    return {record.key: record.value for record in state_records(None, state) if record.value is not None}


@dataclass
class Looks:
    """Port `StateView`: one look after the other, the last one for ever."""

    contents: list[Mapping[bytes, bytes]]

    async def read(self) -> Mapping[bytes, bytes]:
        return self.contents.pop(0) if len(self.contents) > 1 else self.contents[0]


@dataclass
class Sent:
    """A sender that keeps what was sent."""

    messages: list[tuple[str, bytes | None, bytes | None]] = field(default_factory=list)
    is_closed: bool = False

    async def send(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[int, int]:
        self.messages.append((topic, key, value))
        return 0, 41

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    "order",
    [
        Rescan(id="a", type="rescan", from_block=5),
        Rescan(id="b", type="rescan", from_block=0, to_block=0),
        Rewind(id="c", type="rewind", to=0),
        Rewind(id="d", type="rewind", to=7, after_loss=True),
        Cancel(id="e", type="cancel", order="a"),
    ],
)
async def test_what_is_sent_is_what_the_leader_reads(order: Order) -> None:
    """With nothing in it that was not asked for."""
    sender = Sent()
    assert await send(OrderTopics("eu.orders", sender, Looks([{}])), order) == 41
    ((name, key, value),) = sender.messages
    assert (name, key) == ("eu." + Topic.ORDERS, None)
    assert parse_order(value) == order
    assert None not in json.loads(value or b"").values()
    assert sender.is_closed


async def test_the_outcome_is_waited_for_with_its_progress() -> None:
    """Nobody has taken it, then it waits, runs, and is done; other orders are not shown."""
    running = replace(ACCEPTED, status=OrderStatus.RUNNING, next_block=5, published=2)
    done = replace(running, status=OrderStatus.DONE, next_block=10)
    looks = Looks([{}, topic(OTHER), topic(OTHER, ACCEPTED), topic(OTHER, running), topic(OTHER, done)])
    shown: list[OrderState] = []
    clock = FakeClock()
    assert await follow(looks, "mine", shown.append, lambda: clock.monotonic() > 10, clock.sleep) == done
    assert shown == [ACCEPTED, running, done]


async def test_an_order_that_nobody_takes_ends_the_waiting() -> None:
    """After the time that was given."""
    clock = FakeClock()
    with pytest.raises(TimeoutError):
        await follow(Looks([topic(OTHER)]), "mine", lambda _: None, lambda: clock.monotonic() >= 10, clock.sleep)
    assert clock.monotonic() == 10


def test_where_the_wallet_stands() -> None:
    """What a person should know before a rewind."""
    assert "block 7" in describe(topic())
    assert "no checkpoint" in describe({})
