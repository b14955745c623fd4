"""Orders and `watch_address` as people and services send them, and what became of them."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from component.worker_processes import Wallet, eventually
from wallet_core.checkpoint import read_orders
from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Topic
from wallet_core.orders import OrderState
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_sender import KafkaSender
from wallet_workers.adapters.kafka_state import KafkaStateView


async def order(wallet: Wallet, **value: object) -> str:
    """Send an order, as walletctl does; its id."""
    order_id = uuid.uuid4().hex
    sender = KafkaSender(KafkaClients(wallet.kafka.bootstrap_servers))
    try:
        await sender.send(wallet.prefix + Topic.ORDERS, None, json.dumps({"id": order_id, **value}).encode())
    finally:
        await sender.close()
    return order_id


async def outcome(wallet: Wallet, order_id: str, fits: Callable[[OrderState], bool] | None = None) -> OrderState:
    """What became of an order, once it fits: by default, once it is final."""
    view = KafkaStateView(KafkaClients(wallet.kafka.bootstrap_servers), wallet.prefix + Topic.STATE_SYNC)

    async def look() -> OrderState | None:
        try:
            orders = read_orders(await view.read())
        except KafkaUnreachable:  # a busy broker lets a look run into its time-out; the wait has its own
            return None
        return next((found for found in orders if found.id == order_id), None)

    def enough(found: OrderState | None) -> bool:
        return found is not None and (fits(found) if fits else found.status.is_final)

    found = await eventually(look, enough)
    assert found is not None
    return found


async def watch(wallet: Wallet, address: str) -> dict[str, Any]:
    """The reply to a `watch_address`."""
    await wallet.send(json.dumps({"id": "w", "type": "watch_address", "address": address}).encode())
    journal = await wallet.journal()
    key = f"watch:{address}".encode()
    replies = await journal.until(Topic.ADDRESS_CREATED, lambda seen: any(each.key == key for each in seen))
    return next(each.json() for each in replies if each.key == key)
