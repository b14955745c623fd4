"""Many questions, a few of them at a time, each of them more than once where the node does not answer.

An audit asks for hours, and a node that says "too many requests" once must not end it. What is tried again is
`Unavailable` only; what a node declines, it declines the next time too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import structlog

from wallet_core.errors import Unavailable
from wallet_workers.adapters.backoff import backoff_seconds

log = structlog.get_logger()

REQUESTS_AT_ONCE_MAX = 16
"""Questions to the node in flight: what one node bears beside its own work."""
TRIES_MAX = 7
"""Of one question: with the pauses between them about a minute."""

_T = TypeVar("_T")
_R = TypeVar("_R")


async def at_once(ask: Callable[[_T], Awaitable[_R]], questions: Iterable[_T]) -> list[_R]:
    """The answers in the questions' order; each is asked `patiently`, and the first error ends the others."""
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)

    async def ask_one(question: _T) -> _R:
        async with gate:
            return await patiently(lambda: ask(question))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask_one(question)) for question in questions]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def patiently(ask: Callable[[], Awaitable[_R]]) -> _R:
    """The answer of the first of `TRIES_MAX` tries that has one. Raises what the last one raised."""
    for failures in range(1, TRIES_MAX):
        try:
            return await ask()
        except Unavailable as error:
            # questions that failed together do not come back together
            pause_seconds = backoff_seconds(failures) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it
            log.warning("asked_again", error_code=error.error_code, message=str(error), after_seconds=pause_seconds)
            await asyncio.sleep(pause_seconds)
    return await ask()
