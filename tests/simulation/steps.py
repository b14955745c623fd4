"""The leader's steps, as the state topic shows them, checked against the chain and against what was ordered.

From one step to the next the wallet's chain may only grow, be rolled back within the window, and settle. Two things
break that rule, and only by a person's order: a rewind moves the base back, to the block that was ordered and in the
step that ends it; a lost checkpoint is made anew at such a block. What a step says is in force is noted block by block:
which assets count, whose transfers are funding, and what a rescan has read again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from simulation.history import History, Movement
from wallet_core.testing.fake_broker import StoredRecord

FINAL = ("done", "refused")


class Broken(Exception):
    """A promise was broken."""


def require(holds: object, promise: str, otherwise: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(f"{promise}: {otherwise}")


@dataclass(frozen=True)
class Order:
    """An order as somebody sent it."""

    id: str
    place: int
    """Its offset in `orders`."""
    content: dict[str, Any]
    published: int
    """How many addresses were published before."""


@dataclass(frozen=True)
class InForce:
    """What counts in a block."""

    symbols: frozenset[str]
    gas_address: str | None
    published: int | None = None
    """Addresses up to this one were published in time, where that is not a matter of when the block was made."""

    def counts(self, movement: Movement) -> bool:
        """Whether a movement is the wallet's to report."""
        is_funding = movement.txid is not None and movement.sender == self.gas_address and movement.symbol == "ETH"
        return movement.symbol in self.symbols and not is_funding


@dataclass
class _Picture:
    base: tuple[int, str]
    tip: tuple[int, str]
    window: dict[int, tuple[str, str]]
    assets: dict[str, int]
    gas_address: str | None
    orders: dict[str, str]


@dataclass
class Steps:
    """See the module."""

    history: History
    symbols: dict[str, str]
    """What each asset is called, by its key in the checkpoint."""
    gas_address: str
    settle_depth: int
    values: dict[str, Any] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    """Every order that nothing excuses from an outcome."""
    in_force: dict[str, InForce] = field(default_factory=dict)
    """By block, what counted when it joined the wallet's chain the last time."""
    rescanned: dict[str, list[InForce]] = field(default_factory=dict)
    """By block, what was read again."""
    ever: dict[str, list[InForce]] = field(default_factory=dict)
    """By block, all that ever counted."""
    before: _Picture | None = None
    last_tip: tuple[int, str] | None = None
    """The newest block that was read before the checkpoint was lost."""
    _assets_during: dict[str, frozenset[str]] = field(default_factory=dict)
    _rescans_sent: int = 0
    _rescanned_without_gas_address: bool = False
    """Whether a rescan may have read blocks before the gas address appeared: what it sent was no funding yet."""

    # --- what was ordered ---------------------------------------------------------------------------------------------

    def order_sent(self, order: Order) -> None:
        """An order is on its topic."""
        self.orders[order.id] = order
        self._rescans_sent += order.content.get("type") == "rescan"

    def open_orders(self, kind: str) -> list[Order]:
        """Those without an outcome."""
        return [
            order
            for order in self.orders.values()
            if order.content.get("type") == kind and self.outcome(order.id)["status"] not in FINAL
        ]

    def outcome(self, order_id: str) -> dict[str, Any]:
        """What the wallet says of an order."""
        found: dict[str, Any] = self.values.get(f"order:{order_id}", {"status": "unheard of"})
        return found

    def state_lost(self) -> None:
        """The topic is gone."""
        self.last_tip = self.before.tip if self.before else self.last_tip
        self.values, self.before = {}, None

    # --- one step -----------------------------------------------------------------------------------------------------

    def step(self, changes: list[StoredRecord]) -> None:
        """One more transaction of the wallet's leader. Raises Broken."""
        before = self.before
        for record in changes:
            key = (record.key or b"").decode()
            if record.value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = json.loads(record.value)
        after = self.before = self._picture()
        self._rescanned_without_gas_address |= after.gas_address is None and self._rescans_sent > 0
        self._check_window(after)
        if before is None:
            self._check_first(after)
            return
        rewind = self._rewind_done(before, after)
        if rewind is None:
            self._check_going_on(before, after)
            self._note_joined(before, after)
        else:
            self._check_rewind(before, after, rewind)
        self._check_assets(before, after)
        self._note_rescans(before, after)

    @property
    def sequence(self) -> int | None:
        """What the checkpoint says; None where there is none."""
        return int(self.values["checkpoint"]["sequence"]) if self.before else None

    def follows(self, block_hash: str) -> bool:
        """Whether the wallet's chain holds the block."""
        return self.before is not None and self.history.descends(self.before.tip[1], block_hash)

    def required(self, block_hash: str, movement: Movement, published_at: int | None) -> bool:
        """Whether a movement in a block of the chain must have been reported."""
        if published_at is None:
            return False
        in_force = self.in_force.get(block_hash)
        if in_force and in_force.counts(movement) and published_at < self.history.published_then[block_hash]:
            return True
        return any(
            each.counts(movement) and each.published is not None and published_at < each.published
            for each in self.rescanned.get(block_hash, ())
        )

    def allowed(self, block_hash: str, movement: Movement) -> bool:
        """Whether it may have been."""
        if any(each.counts(movement) for each in self.ever.get(block_hash, ())):
            return True
        may_be_funding = movement.sender == self.gas_address and not self._rescanned_without_gas_address
        return bool(self._rescans_sent) and not may_be_funding

    def is_followed_up(self, block_hash: str, movement: Movement) -> bool:
        """Whether its status must be today's: not where the block joined again after its asset was removed."""
        in_force = self.in_force.get(block_hash)
        return in_force is None or in_force.counts(movement)

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _picture(self) -> _Picture:
        checkpoint = self.values["checkpoint"]
        return _Picture(
            (checkpoint["base"]["number"], checkpoint["base"]["hash"]),
            (checkpoint["tip"]["number"], checkpoint["tip"]["hash"]),
            {
                value["number"]: (value["hash"], value["parent_hash"])
                for key, value in self.values.items()
                if key.startswith("block:")
            },
            checkpoint["asset_first_blocks"],
            checkpoint["gas_address"] and checkpoint["gas_address"].lower(),
            {key[6:]: value["status"] for key, value in self.values.items() if key.startswith("order:")},
        )

    def _check_window(self, after: _Picture) -> None:
        number, parent = after.base
        for number, (block_hash, parent_hash) in sorted(after.window.items()):
            require(parent_hash == parent, "Recovery", f"the checkpoint's block {number} does not follow the one below")
            parent = block_hash
        require((number, parent) == after.tip, "Recovery", f"the tip {after.tip} is not the newest block")
        require(after.tip[1] in self.history.blocks, "Recovery", f"the checkpoint's tip {after.tip} never was")
        require(after.base[1] not in self.history.lies, "Credit", f"a lie of one node is settled: {after.base}")

    def _check_first(self, after: _Picture) -> None:
        """The first checkpoint of all, or the first one after a loss."""
        if self.last_tip is None:
            return
        running = [self.orders[each] for each, status in after.orders.items() if status == "running"]
        require(
            len(running) == 1 and running[0].content.get("after_loss") and running[0].content["to"] == after.base[0],
            "Recovery",
            f"nobody ordered the new checkpoint at {after.base}",
        )
        require(after.base[0] <= self.last_tip[0], "Detection", f"{after.base} is above {self.last_tip}")
        self.orders = {each.id: each for each in self.orders.values() if each.place >= running[0].place}
        self._assets_during.clear()

    def _rewind_done(self, before: _Picture, after: _Picture) -> Order | None:
        for order_id, status in after.orders.items():
            if status == before.orders.get(order_id) or order_id not in self.orders:
                continue
            order = self.orders[order_id]
            if order.content.get("type") != "rewind":
                continue
            if status == "refused":
                require(
                    (before.base, before.window) == (after.base, after.window),
                    "Recovery",
                    f"the refused {order} changed something",
                )
            elif status == "done":
                return order
        return None

    def _check_rewind(self, before: _Picture, after: _Picture, order: Order) -> None:
        require(
            after.base[0] == order.content["to"] <= before.base[0] and not after.window,
            "Recovery",
            f"after {order} the base is {after.base}, before it was {before.base}",
        )

    def _check_going_on(self, before: _Picture, after: _Picture) -> None:
        base, tip = after.base, after.tip
        require(base[0] >= before.base[0], "Recovery", f"the checkpoint's base goes back to {base}")
        ours = before.window.get(base[0], (None,))[0] if base[0] > before.base[0] else before.base[1]
        require(ours in (None, base[1]), "Recovery", f"the base {base} was another block of the window")
        require(
            base == before.base or self.history.depth_ever(base[1]) >= self.settle_depth,
            "Credit",
            f"{base} is settled, and never was deeper than {self.history.depth_ever(base[1])}",
        )
        require(self.history.descends(tip[1], before.base[1]), "Recovery", f"{tip} does not descend from {before.base}")

    def _check_assets(self, before: _Picture, after: _Picture) -> None:
        """A new asset counts from the next block, an old one from where it did; but for blocks that are read again."""
        for key, first in after.assets.items():
            expected = min(before.assets.get(key, after.tip[0] + 1), after.tip[0] + 1)
            require(first == expected, "Detection", f"{self.symbols[key]} counts from {first} and not from {expected}")
        if before.gas_address is not None:
            require(after.gas_address == before.gas_address, "Credit", f"the gas address is {after.gas_address}")
        require(after.gas_address in (None, self.gas_address), "Credit", f"the gas address is {after.gas_address}")

    def _note_joined(self, before: _Picture, after: _Picture) -> None:
        known = {block_hash for block_hash, _ in before.window.values()} | {before.base[1]}
        number, block_hash = after.tip
        while number > before.base[0] and block_hash not in known:
            scope = self._scope(before, number)
            self.in_force[block_hash] = scope
            self.ever.setdefault(block_hash, []).append(scope)
            block_hash = self.history.blocks[block_hash].header.parent_hash
            number -= 1

    def _scope(self, picture: _Picture, number: int) -> InForce:
        symbols = frozenset(self.symbols[key] for key, first in picture.assets.items() if first <= number)
        return InForce(symbols, picture.gas_address)

    def _note_rescans(self, before: _Picture, after: _Picture) -> None:
        now = frozenset(self.symbols[key] for key in after.assets)
        for order_id, status in after.orders.items():
            order = self.orders.get(order_id)
            if order is None or order.content.get("type") != "rescan" or before.orders.get(order_id) in FINAL:
                continue
            during = self._assets_during[order_id] = self._assets_during.get(order_id, now) & now
            if status != "done":
                continue
            state = self.outcome(order_id)
            read = InForce(during, after.gas_address, order.published)
            number, block_hash = after.base
            while number >= max(state["from_block"], 1):
                if number <= state["to_block"]:
                    self.rescanned.setdefault(block_hash, []).append(read)
                block_hash = self.history.blocks[block_hash].header.parent_hash
                number -= 1
