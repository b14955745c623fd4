"""The person on call: reads what `/status` says, does what the message tells, and looks what became of it."""

from __future__ import annotations

import asyncio
import random
import re

from simulation.nemesis import Kubelet
from simulation.promises import Promises
from simulation.steps import FINAL
from simulation.story import Story
from simulation.wallet import World
from wallet_core.settings import Role

LOOK_SECONDS = (0.5, 2.0, 5.0)
_LOWER = (
    re.compile(r"above block (\d+), the newest one of the wallet that the node is known to have too"),
    re.compile(r"settled blocks up to (\d+) only"),
    re.compile(r"would confirm them: rewind to block (\d+) or below"),
)
"""How a refusal names where to go back to instead."""


class OnCall:
    """See the module."""

    def __init__(self, world: World, kubelet: Kubelet, story: Story, promises: Promises) -> None:
        self._world = world
        self._kubelet = kubelet
        self._story = story
        self._promises = promises
        self._choice = random.Random(world.choice.random())
        self._order: str | None = None
        self._to: int | None = None
        """Where the last refusal said to go back to."""

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._choice.choice(LOOK_SECONDS))
            halts = self._halts()
            if self._promises.steps.before is None and self._promises.steps.last_tip is not None:
                if any("CheckpointLost" in halt for halt in halts):
                    await self._make_anew()
            elif any("ForkBelowWindow" in halt for halt in halts):
                self._rewind()

    def _halts(self) -> list[str]:
        """What the processes say that a person must mend."""
        return [
            trouble["message"]
            for process in self._kubelet.alive()
            if process.role is Role.SYNC and process.running and process.status is not None
            for trouble in process.status.as_dict()["troubles"]  # type: ignore[attr-defined]  # a JSON document
            if trouble["part"] == "halt"
        ]

    def _rewind(self) -> None:
        """Send a rewind to a block below the fork, if the last one is over and did not help."""
        steps = self._promises.steps
        assert steps.before is not None
        if steps.open_orders("rewind"):
            return
        common = self._world.history.common_number(steps.before.base[1])
        if common == steps.before.base[0]:
            return  # a rewind helped meanwhile
        to = common - self._choice.choice((0, 0, 1, 5))
        if self._order is not None and (outcome := steps.outcome(self._order))["status"] in FINAL:
            to = min(to, _told(outcome["message"], to))
        self._order = self._story.send_order({"type": "rewind", "to": max(0, to)})

    async def _make_anew(self) -> None:
        """Send the order that makes a lost checkpoint anew, and start the bootstrap that carries it out."""
        steps = self._promises.steps
        assert steps.last_tip is not None
        to = self._world.history.common_number(steps.last_tip[1]) - self._choice.choice((0, 1, 5))
        to = max(0, to if self._to is None else min(to, self._to))
        if self._story.send_order({"type": "rewind", "to": to, "after_loss": True}) is None:
            return
        process = self._kubelet.start(Role.BOOTSTRAP)
        while not process.ended and not process.crashed:  # noqa: ASYNC110 - as somebody waits for a Job
            await asyncio.sleep(0.5)
        if process.failed_by:
            self._to = _told(process.failed_by, to)


def _told(message: str, otherwise: int) -> int:
    """The highest block that a refusal allows."""
    for lower in _LOWER:
        if found := lower.search(message):
            return int(found[1])
    return otherwise
