"""What the users do, as the seed says: commands of every kind, payments, and orders that nobody needed.

Users pay addresses that they have seen published; some pay what was never published, or not yet.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from simulation.miner import Miner
from simulation.payments import Payments
from simulation.promises import Promises
from simulation.wallet import World
from simulation.wallet_resource import PREFIX
from wallet_core.addresses import Address, lower_hex
from wallet_core.errors import KafkaUnreachable

COMMAND_IDS = tuple(f"user-{number}" for number in range(12))
METAS: tuple[dict[str, object], ...] = ({}, {"desk": "emea"}, {"b": [1, 2], "a": {"ä": None}})
BAD_COMMANDS = (None, b"", b"\xff", b"[]", b'{"type": "destroy"}', b'{"type": "create_account", "id": 7}')
BAD_ORDERS = (b"", b"\xff", b"[]", b'{"id": "x", "type": "destroy"}', b'{"id": "x", "type": "rewind", "to": -1}')


class Story:
    """The users of one seed."""

    def __init__(self, world: World, payments: Payments, miner: Miner, promises: Promises) -> None:
        self._world = world
        self._choice = random.Random(world.choice.random())
        self._payments = payments
        self._miner = miner
        self._promises = promises
        self._orders = 0
        self._order_rate = self._choice.choice((0.0, 0.0, 0.05))
        self._rewind_rate = self._choice.choice((0.0, 0.0, 0.05))

    async def use(self) -> None:
        """Send commands and payments, for ever."""
        while True:
            await asyncio.sleep(self._choice.expovariate(1.0))
            if self._choice.random() < 0.4:
                self.send_command()
            if self._choice.random() < self._order_rate:
                self._send_rescan()
            if self._choice.random() < self._rewind_rate:
                self._send_rewind()
            for _ in range(self._choice.randint(0, 2)):
                self._miner.waiting.append(self._payments.make())

    def send_command(self) -> None:
        """Put one message on `command`, if there is such a topic and a broker."""
        topic = PREFIX + "command"
        broker, choice = self._world.broker, self._choice
        if not broker.reachable or topic not in broker.topics():
            return
        command_id, meta = choice.choice(COMMAND_IDS), choice.choice(METAS)
        partition = choice.randrange(broker.partitions(topic))
        command: dict[str, object] = {"type": "create_account", "meta": meta}
        headers: tuple[tuple[str, bytes], ...] = ()
        kind = choice.random()
        try:
            if kind < 0.1:
                broker.produce(topic, None, choice.choice(BAD_COMMANDS), partition=partition)
                self._promises.bad_command_sent()
                return
            if kind < 0.15:
                address = lower_hex(Address(bytes([choice.randint(1, 6)]) * 20))
                watch = {"type": "watch_address", "id": command_id, "meta": meta, "address": address}
                broker.produce(topic, None, json.dumps(watch).encode(), partition=partition)
                self._promises.watch_sent(address, command_id, meta)
                return
            if kind < 0.2:
                broker.produce(topic, None, json.dumps(command).encode(), partition=partition)
                self._promises.command_sent(None, meta)
                return
            if kind < 0.4:
                headers = (("ce_id", command_id.encode()),)
            else:
                command["id"] = command_id
            broker.produce(topic, b"k", json.dumps(command).encode(), headers=headers, partition=partition)
            self._promises.command_sent(command_id, meta)
        except KafkaUnreachable:
            return

    # --- orders -------------------------------------------------------------------------------------------------------

    def send_order(self, content: dict[str, Any]) -> str | None:
        """Put an order on its topic. Returns its id; None where there is no such topic or no broker."""
        topic = PREFIX + "orders"
        broker = self._world.broker
        if not broker.reachable or topic not in broker.topics():
            return None
        self._orders += 1
        order_id = f"order-{self._orders}"
        order = {"id": order_id} | content
        self._world.trace.add(f"user: ORDER {order}")
        _, place = broker.produce(topic, None, json.dumps(order).encode(), partition=0)
        self._promises.order_sent(order_id, place, content)
        return order_id

    def _send_rescan(self) -> None:
        choice, tip = self._choice, self._world.chain.tip.number
        order: dict[str, Any] = {"type": "rescan", "from_block": choice.randint(0, tip)}
        if choice.random() < 0.5:
            order["to_block"] = choice.randint(0, tip + 5)
        if choice.random() < 0.9:
            self.send_order(order)
        elif self._world.broker.reachable and PREFIX + "orders" in self._world.broker.topics():
            self._world.broker.produce(PREFIX + "orders", None, choice.choice(BAD_ORDERS), partition=0)

    def _send_rewind(self) -> None:
        """A rewind that nobody needs, to anywhere: also above a fork, where it must be refused."""
        choice, steps = self._choice, self._promises.steps
        if steps.before is None:
            return
        base = steps.before.base
        to = choice.choice((base[0], base[0] + choice.randint(-30, 10), choice.randint(0, base[0] + 20)))
        self.send_order({"type": "rewind", "to": max(0, to), "after_loss": choice.random() < 0.2})
