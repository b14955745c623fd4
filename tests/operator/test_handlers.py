"""What kopf's events do to the queue."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from virtual_time import in_virtual_time
from wallet_operator.handlers import STATUS_SECONDS, make_notice
from wallet_operator.queue import Ask, Queue

KEY = ("wallets", "mainnet")


def deployment(generation: int = 1, **status: Any) -> dict[str, Any]:
    metadata = {
        "name": "mainnet-sync",
        "namespace": "wallets",
        "uid": "d",
        "generation": generation,
        "labels": {"wallet-manager.dev/wallet": "mainnet"},
    }
    return {"kind": "Deployment", "metadata": metadata, "status": status}


@in_virtual_time
async def test_a_rollout_leads_to_one_look_a_second() -> None:
    """Its Deployment changes with every pod, and each look asks every worker."""
    queue, looks = Queue(), list[Ask]()

    async def take_all() -> None:
        while True:
            key, ask = await queue.take()
            looks.append(ask)
            queue.done(key)

    taking, notice = asyncio.create_task(take_all()), make_notice(queue)
    await notice("ADDED", deployment())
    await asyncio.sleep(0.01)
    assert looks == [Ask.RECONCILE], "what is new is looked at at once"
    for updated in range(200):
        await notice("MODIFIED", deployment(updatedReplicas=updated))
        await asyncio.sleep(0.05)
    await asyncio.sleep(2 * STATUS_SECONDS)
    assert 5 <= looks.count(Ask.LOOK) <= 10 / STATUS_SECONDS + 1
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


@in_virtual_time
async def test_what_a_person_changes_is_looked_at_at_once() -> None:
    """Also in the middle of a rollout."""
    queue = Queue()
    notice = make_notice(queue)
    for event in (deployment(), deployment(updatedReplicas=1), deployment(generation=2)):
        await notice("MODIFIED", event)
    assert await queue.take() == (KEY, Ask.RECONCILE)


def test_events_are_noticed_in_the_loops_own_thread() -> None:
    """kopf runs whatever is no coroutine in threads, and the queue's timers and events are not made for that."""
    assert inspect.iscoroutinefunction(make_notice(Queue()))
