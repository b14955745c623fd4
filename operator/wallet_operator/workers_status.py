"""Asking the workers how they are: the `/status` of every pod, over the pod network."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import aiohttp

from wallet_operator.network import STATUS_PORT
from wallet_operator.pods import WorkerPod

ANSWER_SECONDS_MAX = 2.0
ASKED_AT_ONCE_MAX = 32


class AskPod(Protocol):
    """How a pod is asked."""

    async def __call__(self, pod: WorkerPod, wallet: str) -> Mapping[str, Any] | None:
        """The document of the pod's `/status`; None where it does not answer, or somebody else does."""


class HttpAskPod:
    """Over the pod network."""

    def __init__(self, session: aiohttp.ClientSession, port: int = STATUS_PORT) -> None:
        self._session = session
        self._port = port
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def __call__(self, pod: WorkerPod, wallet: str) -> Mapping[str, Any] | None:
        """See AskPod."""
        if pod.ip is None:
            return None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
        try:
            async with self._slots, self._session.get(f"http://{host}:{self._port}/status", timeout=timeout) as answer:
                answer.raise_for_status()
                found = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None  # silence is what the caller counts; `/status` of the wallet names who is silent
        if not isinstance(found, dict) or (found.get("role"), found.get("wallet")) != (pod.role.value, wallet):
            return None
        return found


async def ask_all(ask: AskPod, pods: Collection[WorkerPod], wallet: str) -> dict[str, Mapping[str, Any] | None]:
    """Every living pod's answer, by the pod's uid."""
    living = [pod for pod in pods if pod.lives]
    answers = await asyncio.gather(*(ask(pod, wallet) for pod in living))
    return {pod.uid: answer for pod, answer in zip(living, answers, strict=True)}
