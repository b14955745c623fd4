"""The channels to one endpoint, and what the connection of each has proved.

Behind one URL there may be several nodes, and one of them may be of another chain: a balancer sends each connection
where it likes. So a proof is worth something for the very connection that it came over, and for no other. A channel is
held by one question at a time, with the proofs that the question needs, so nobody else can use a connection between
its making and its proof.

The channel used last is handed out first, so that quiet times leave few connections, and those proved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from yarl import URL

from wallet_workers.adapters.json_rpc import Channel

CHANNELS_MAX = 32
"""Connections held at a time, to one endpoint."""


@dataclass(frozen=True)
class _Proof:
    connection: int
    """By `Channel.connection`."""
    demand: int
    """By `Channels.demand`."""
    with_branch: bool
    """Whether the branch was proved, too."""


class ProvedChannel(Channel):
    """A channel that remembers what its connection proved."""

    def __init__(self, url: URL, request_timeout_seconds: float, channels: Channels) -> None:
        super().__init__(url, request_timeout_seconds)
        self._channels = channels
        self._proof: _Proof | None = None
        self.generation = channels.generation
        """The `Channels.generation` that its connection is of."""

    def note_proof(self, *, with_branch: bool) -> None:
        """All of it came over the present connection, and shows what is demanded now."""
        self._proof = _Proof(self.connection, self._channels.demand, with_branch)

    def has_proved(self, *, with_branch: bool) -> bool:
        """Whether the present connection has proved so much."""
        proof = self._proof
        return (
            proof is not None
            and (proof.connection, proof.demand) == (self.connection, self._channels.demand)
            and (proof.with_branch or not with_branch)
        )


class Channels:
    """At most `CHANNELS_MAX` of them. To be closed on the running loop."""

    def __init__(self, url: URL, request_timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = request_timeout_seconds
        self._gate = asyncio.Semaphore(CHANNELS_MAX)
        self._idle: list[ProvedChannel] = []
        self._held: set[ProvedChannel] = set()
        self.demand = 0
        """Rises when what a proof must show has changed: older proofs are worth nothing."""
        self.generation = 0
        """Rises when other connections may lead to a better node: older ones are not used again."""

    @asynccontextmanager
    async def one(self) -> AsyncIterator[ProvedChannel]:
        """A channel for one question.

        The wait for a free one has no limit of its own, for it says nothing of the endpoint: each of those in use is
        free again when its requests, so many as there may be, have ended in their time.
        """
        async with self._gate:
            channel = self._idle.pop() if self._idle else ProvedChannel(self._url, self._timeout_seconds, self)
            self._held.add(channel)
            try:
                if channel.generation != self.generation:
                    channel.generation = self.generation
                    await channel.reconnect()
                yield channel
            finally:
                self._held.remove(channel)
                self._idle.append(channel)

    async def close(self) -> None:
        """End every connection."""
        await asyncio.gather(*(channel.close() for channel in (*self._idle, *self._held)))
