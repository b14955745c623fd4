"""Many questions, a few of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

REQUESTS_AT_ONCE_MAX = 16
"""Questions to the node in flight: what one node bears beside its own work."""

_T = TypeVar("_T")
_R = TypeVar("_R")


async def at_once(ask: Callable[[_T], Awaitable[_R]], questions: Iterable[_T]) -> list[_R]:
    """The answers in the questions' order; the first error ends the others."""
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)

    async def ask_one(question: _T) -> _R:
        async with gate:
            return await ask(question)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask_one(question)) for question in questions]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
