"""The queue of wallets to look at."""

from __future__ import annotations

import asyncio

from virtual_time import in_virtual_time
from wallet_operator.queue import Ask, Queue

A, B = ("wallets", "a"), ("wallets", "b")


async def taken(queue: Queue) -> tuple[tuple[str, str], Ask] | None:
    """What is handed out now, if anything."""
    try:
        async with asyncio.timeout(0):
            return await queue.take()
    except TimeoutError:
        return None


@in_virtual_time
async def test_a_wallet_is_handed_out_once_however_often_it_was_added() -> None:
    """A storm of events is one look, as thorough as the most thorough wish."""
    queue = Queue()
    for ask in (Ask.LOOK, Ask.RECONCILE, Ask.LOOK):
        queue.add(A, ask)
    queue.add(B, Ask.LOOK)
    assert len(queue) == 2
    assert await queue.take() == (A, Ask.RECONCILE)
    assert await queue.take() == (B, Ask.LOOK)
    assert await taken(queue) is None


@in_virtual_time
async def test_two_looks_at_one_wallet_never_overlap() -> None:
    """What happens during a look is not forgotten: it is looked at again afterwards."""
    queue = Queue()
    queue.add(A, Ask.LOOK)
    assert await queue.take() == (A, Ask.LOOK)
    queue.add(A, Ask.RECONCILE)
    queue.add(B, Ask.LOOK)
    assert await queue.take() == (B, Ask.LOOK)
    assert await taken(queue) is None
    queue.done(A)
    assert await queue.take() == (A, Ask.RECONCILE)


@in_virtual_time
async def test_who_waits_is_woken() -> None:
    """By an addition and by the end of a look."""
    queue = Queue()
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(1)
    queue.add(A, Ask.LOOK)
    assert await waiting == (A, Ask.LOOK)
    queue.add(A, Ask.LOOK)
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(1)
    assert not waiting.done()
    queue.done(A)
    assert await waiting == (A, Ask.LOOK)


@in_virtual_time
async def test_the_earliest_of_several_later_looks_holds() -> None:
    """And only one of them is made."""
    queue = Queue()
    loop = asyncio.get_running_loop()
    queue.add_later(A, Ask.LOOK, 10)
    queue.add_later(A, Ask.LOOK, 3)
    queue.add_later(A, Ask.LOOK, 5)
    assert await queue.take() == (A, Ask.LOOK)
    assert loop.time() == 3
    queue.done(A)
    await asyncio.sleep(60)
    assert await taken(queue) is None


@in_virtual_time
async def test_a_look_now_makes_a_later_one_unnecessary_if_it_is_as_thorough() -> None:
    """A mere look does not take the place of a reconcile."""
    queue = Queue()
    queue.add_later(A, Ask.LOOK, 5)
    queue.add_later(A, Ask.RECONCILE, 7)
    queue.add(A, Ask.LOOK)
    assert await queue.take() == (A, Ask.LOOK)
    queue.done(A)
    assert await queue.take() == (A, Ask.RECONCILE)
    assert asyncio.get_running_loop().time() == 7


@in_virtual_time
async def test_nothing_is_due_for_a_wallet_that_is_gone() -> None:
    """It would be looked for again and again."""
    queue = Queue()
    queue.add_later(A, Ask.LOOK, 5)
    queue.forget(A)
    await asyncio.sleep(60)
    assert len(queue) == 0
