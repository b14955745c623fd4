"""Orders: what the people on call ask of the leader of sync, and what became of it.

An order is a message on `orders`, one JSON object, written by walletctl:

- `{"id": …, "type": "rescan", "from_block": n, "to_block": m}`: read settled blocks again and say what was missed
  (`rescans`). Without `to_block`: up to the newest block that the node has when the order is taken.
- `{"id": …, "type": "rewind", "to": n}`: follow the chain anew from block n on (`rewinds`). With `after_loss` it is for
  a wallet that lost its checkpoint, and bootstrap carries it out.
- `{"id": …, "type": "cancel", "order": …}`: end the order of that id. Not a rewind that has taken something back: it
  can only be finished.

**One order, one record.** What became of an order is the record `order:<id>` of the state topic, written with the
leader's next step: `accepted`, `running` with how far it is, `done`, `refused` or `cancelled`. That record is both the
answer, which walletctl reads, and the place from which a new leader goes on. A message that is no order is refused
under the id `offset-<n>`, its place in the topic. An id that is known already is the same order sent again: nothing
happens.

**Turns.** Rewinds come first, for a wallet that needs one can do nothing else; then rescans, each in the order in which
they were taken. A rescan whose blocks cannot be read now, or are not settled yet, lets the next one go first. Only
`FINISHED_ORDERS_MAX` finished orders are kept, the newest ones; an order of a forgotten id is carried out again, which
says nothing twice. At most `OPEN_RESCANS_MAX` rescans wait, and `OPEN_REWINDS_MAX` rewinds, however many rescans do;
more are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from wallet_core.errors import OrderRefused

FINISHED_ORDERS_MAX = 50
"""Outcomes that the state topic keeps."""
OPEN_RESCANS_MAX = 50
"""Rescans that may wait or run at once."""
OPEN_REWINDS_MAX = 50
"""Likewise."""
ORDER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MESSAGE_LENGTH_MAX = 500
"""Characters of what an outcome says."""
BLOCK_NUMBER_MAX = 2**53 - 1

_BlockNumber = Annotated[int, Field(ge=0, le=BLOCK_NUMBER_MAX, strict=True)]


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    id: str = Field(pattern=ORDER_ID_PATTERN, strict=True)
    """Names the order; the same id again is the same order."""


class Rescan(_Order):
    """On `orders`: read settled blocks again, and say `confirmed` of what was missed."""

    type: Literal["rescan"]
    """The order."""
    from_block: _BlockNumber
    """First block that is read."""
    to_block: _BlockNumber | None = None
    """Last block that is read; by default the newest one when the order is taken."""


class Rewind(_Order):
    """On `orders`: go back to a settled block, take back what is gone above it, and follow the chain anew."""

    type: Literal["rewind"]
    """The order."""
    to: _BlockNumber
    """The block from which the chain is followed: the first one read again is the next."""
    after_loss: bool = Field(default=False, strict=True)
    """Whether it is to give a new checkpoint to a wallet that lost its own."""


class Cancel(_Order):
    """On `orders`: end another order, as far as it came."""

    type: Literal["cancel"]
    """The order."""
    order: str = Field(pattern=ORDER_ID_PATTERN, strict=True)
    """The id of the order that is to end."""


Order = Rescan | Rewind | Cancel

_ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="type")])


class OrderStatus(StrEnum):
    """How far an order is."""

    ACCEPTED = "accepted"
    """Waits for its turn."""
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    """It cannot be carried out; nothing was changed by it."""
    CANCELLED = "cancelled"
    """A person ended it. What a rescan had said by then holds."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of it."""
        return self in (OrderStatus.DONE, OrderStatus.REFUSED, OrderStatus.CANCELLED)


@dataclass(frozen=True)
class OrderState:
    """What became of one order: the value of `order:<id>` in the state topic."""

    id: str
    type: str
    """`rescan`, `rewind`, `cancel`, or `unknown` for a message that is no order."""
    offset: int
    """Its place in `orders`, which may have been made anew since."""
    status: OrderStatus
    message: str = ""
    """A sentence for a person; may change."""
    published: int = 0
    """Events that it has published so far."""
    from_block: int = 0
    """Of a rescan: the first block. Of a rewind: the block to go back to."""
    to_block: int = 0
    """Of a rescan: the last block."""
    next_block: int = 0
    """Of a rescan: the first block that is still to be read."""
    parent_hash: str | None = None
    """Of a rescan under way: the hash of the block before `next_block`, which it must continue."""
    number: int = 0
    """Running number of the orders that were taken: earlier ones come first."""

    @property
    def place(self) -> tuple[int, int]:
        """Sorts orders as they were taken."""
        return self.number, self.offset


@dataclass(frozen=True)
class OrderMessage:
    """One message of the topic `orders`, as it came."""

    offset: int
    value: bytes | None
    timestamp_ms: int
    """Milliseconds since the Unix epoch, as its sender's clock had it."""


@dataclass(frozen=True)
class OrderBook:
    """Every order that is known, as they were taken, and the place up to which the topic was read."""

    position: int = 0
    """Offset of the first message that was not taken yet."""
    orders: tuple[OrderState, ...] = ()

    def with_order(self, order: OrderState) -> OrderBook:
        """The book with one order's state changed, or one order more; the oldest finished ones beyond the limit go."""
        others = (each for each in self.orders if each.id != order.id)
        return replace(self, orders=_kept((*others, order)))

    @property
    def next_rewind(self) -> OrderState | None:
        """The rewind whose turn it is."""
        return next(iter(self.unfinished("rewind")), None)

    def unfinished(self, kind: str) -> list[OrderState]:
        """The orders of a type that are not finished, in the order of their turns."""
        return [each for each in self.orders if each.type == kind and not each.status.is_final]

    @property
    def next_number(self) -> int:
        """The running number of the next order."""
        return max((each.number for each in self.orders), default=0) + 1


def parse_order(value: bytes | None) -> Order:
    """Read a message's value. Raises OrderRefused, which says what is wrong with it."""
    if value is None:
        raise OrderRefused("the message has no value")
    try:
        return _ORDERS.validate_json(value)
    except ValidationError as error:
        fault: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step) for step in fault["loc"])
        raise OrderRefused(f"{place}: {fault['msg']}" if place else str(fault["msg"])) from None


def take_orders(book: OrderBook, messages: Sequence[OrderMessage], newest_number: int) -> OrderBook:
    """The book after some messages: each becomes an order, accepted or refused, or ends another one.

    `newest_number` is that of the newest block that anybody may have read before now: blocks above it are matched with
    every address and asset that the sender of the order knew, blocks up to it perhaps not.
    """
    for message in messages:
        book = replace(_with_message(book, message, newest_number), position=message.offset + 1)
    return book


def refused(order: OrderState, reason: str) -> OrderState:
    """The order as it cannot be carried out."""
    return replace(order, status=OrderStatus.REFUSED, message=reason[:MESSAGE_LENGTH_MAX])


def tried_again(order: OrderState, reason: str) -> OrderState:
    """The order while it cannot go on, and says why."""
    return replace(order, message=f"tried again: {reason}"[:MESSAGE_LENGTH_MAX])


def holds_urgent(messages: Iterable[OrderMessage]) -> bool:
    """Whether one of some messages asks for what a halted leader does too: a rewind, or the end of another order."""
    return any(isinstance(order, Rewind | Cancel) for order in map(_order_or_none, messages))


def newest_rewind_after_loss(messages: Sequence[OrderMessage]) -> tuple[Rewind, OrderMessage] | None:
    """The newest order to make a lost checkpoint anew that no later one ended, with its message."""
    cancelled = set()
    for message in reversed(messages):
        order = _order_or_none(message)
        if isinstance(order, Cancel):
            cancelled.add(order.order)
        if isinstance(order, Rewind) and order.after_loss and order.id not in cancelled:
            return order, message
    return None


def _order_or_none(message: OrderMessage) -> Order | None:
    try:
        return parse_order(message.value)
    except OrderRefused:
        return None


def _with_message(book: OrderBook, message: OrderMessage, newest_number: int) -> OrderBook:
    try:
        order = parse_order(message.value)
    except OrderRefused as error:
        name = f"offset-{message.offset}"
        nameless = OrderState(name, "unknown", message.offset, OrderStatus.ACCEPTED, number=book.next_number)
        return book.with_order(refused(nameless, str(error)))
    if any(each.id == order.id for each in book.orders):
        return book
    state = OrderState(order.id, order.type, message.offset, OrderStatus.ACCEPTED, number=book.next_number)
    try:
        match order:
            case Rescan():
                return book.with_order(_taken_rescan(book, state, order, newest_number))
            case Rewind():
                _check_room(book, order.type, OPEN_REWINDS_MAX)
                return book.with_order(replace(state, from_block=order.to))
            case Cancel():
                return _cancelled(book, order).with_order(replace(state, status=OrderStatus.DONE))
    except OrderRefused as error:
        return book.with_order(refused(state, str(error)))


def _taken_rescan(book: OrderBook, state: OrderState, order: Rescan, newest_number: int) -> OrderState:
    """Raises OrderRefused."""
    first, last = order.from_block, newest_number if order.to_block is None else order.to_block
    if last > newest_number:
        raise OrderRefused(f"block {last} is above block {newest_number}, the newest one: wait for it")
    if first > last:
        raise OrderRefused(f"there is no block from {first} to {last}")
    _check_room(book, order.type, OPEN_RESCANS_MAX)
    return replace(state, from_block=first, to_block=last, next_block=first)


def _check_room(book: OrderBook, kind: str, at_most: int) -> None:
    """Raises OrderRefused where too many wait."""
    if len(book.unfinished(kind)) >= at_most:
        raise OrderRefused(f"{at_most} orders to {kind} wait already: send it again later, or cancel some")


def _cancelled(book: OrderBook, cancel: Cancel) -> OrderBook:
    """The book without the order that is to end. Raises OrderRefused."""
    found = next((each for each in book.orders if each.id == cancel.order), None)
    if found is None:
        raise OrderRefused(f"no order {cancel.order} is known")
    if found.status.is_final:
        raise OrderRefused(f"order {found.id} is {found.status.value} already")
    if found.type == "rewind" and found.status is OrderStatus.RUNNING:
        raise OrderRefused(f"rewind {found.id} has taken transfers back already: it can only be finished")
    message = f"ended by order {cancel.id}; {found.published} transfers were published"
    return book.with_order(replace(found, status=OrderStatus.CANCELLED, message=message))


def _kept(orders: Sequence[OrderState]) -> tuple[OrderState, ...]:
    in_order = sorted(orders, key=lambda order: order.place)
    finished = [order.id for order in in_order if order.status.is_final]
    forgotten = set(finished[:-FINISHED_ORDERS_MAX])
    return tuple(order for order in in_order if order.id not in forgotten)
