"""Answers that are believed: each came over a connection that has proved its chain, over itself.

Behind one URL there may be several nodes, so the proof (`chain_proof.py`) is asked for on every connection before an
answer that came over it is believed, an error too. What goes wrong in a proof is never taken for the question's answer
(`Unproved`).

**An endpoint that keeps no connection** says so with every answer (`Channel.is_closed`), and nothing can be proved
over the connection that an answer came over. It must have proved its chain over connections before the question and
after it, each its own. So a single node, or nodes of one chain, can be used behind such a proxy, at several requests a
question; nodes of several chains behind it may be mixed up, of which a warning tells once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from wallet_core.ports import Clock
from wallet_workers.adapters.chain_proof import ChainProof
from wallet_workers.adapters.channels import Channels, ProvedChannel
from wallet_workers.adapters.json_rpc import Answer, Answered, EndpointFault, Fault

log = structlog.get_logger()

CONNECTIONS_TRIED_MAX = 3
"""In a row, for a proof and a question over one and the same."""
_NO_ANSWER = frozenset({Fault.TIMEOUT, Fault.CONNECT, Fault.HTTP, Fault.NOT_JSON})
"""Says nothing that could be believed."""

T = TypeVar("T")


class Unproved(Exception):
    """A connection did not prove its chain. No `EndpointFault`: whoever asks may take some of those for an answer."""

    def __init__(self, fault: EndpointFault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class ProvedAnswers:
    """Of one endpoint."""

    def __init__(
        self,
        number: int,
        channels: Channels,
        proof: ChainProof,
        clock: Clock,
        request_ended: Callable[[int, str, float], None],
    ) -> None:
        """`number`: the endpoint's. `request_ended` is told it, the method and the seconds of every request."""
        self._number = number
        self._channels = channels
        self._proof = proof
        self._clock = clock
        self._request_ended = request_ended
        self._is_warned_of = False

    async def prove(self, *, with_branch: bool) -> None:
        """Prove the chain anew. Raises EndpointFault."""
        async with self._channels.one() as channel:
            await self._prove(channel, with_branch=with_branch)

    async def ask(self, with_branch: bool, method: str, params: Sequence[object], answer: Answer[T]) -> Answered[T]:
        """One question. Raises EndpointFault for the question, `Unproved` for the proof."""
        async with self._channels.one() as channel:
            for _ in range(CONNECTIONS_TRIED_MAX):
                await self._prove_if_needed(channel, with_branch=with_branch)
                failure: EndpointFault | None = None
                try:
                    answered = await self._request(channel, method, params, answer)
                except EndpointFault as fault:
                    if fault.fault in _NO_ANSWER:
                        raise
                    failure = fault
                if channel.is_closed:
                    await self._prove_if_needed(channel, with_branch=with_branch)
                if channel.has_proved(with_branch=with_branch):
                    if failure is not None:
                        raise failure
                    return answered
        raise Unproved(_short_lived())

    async def _prove_if_needed(self, channel: ProvedChannel, *, with_branch: bool) -> None:
        if not channel.has_proved(with_branch=with_branch):
            try:
                await self._prove(channel, with_branch=with_branch)
            except EndpointFault as fault:
                raise Unproved(fault) from None

    async def _prove(self, channel: ProvedChannel, *, with_branch: bool) -> None:
        """Over one connection, or as many as there are questions where the endpoint keeps none.

        Raises EndpointFault, after which the channel has another connection.
        """
        for _ in range(CONNECTIONS_TRIED_MAX):
            demand, kept, closed = self._channels.demand, set[int](), set[int]()

            async def ask(
                method: str,
                params: Sequence[object],
                answer: Answer[T],
                kept: set[int] = kept,
                closed: set[int] = closed,
            ) -> Answered[T]:
                answered = await self._request(channel, method, params, answer)
                (closed if channel.is_closed else kept).add(channel.connection)
                return answered

            try:
                await self._proof.demand(ask, self._number, with_branch=with_branch)
            except EndpointFault:
                await channel.reconnect()  # a balancer may lead the next one elsewhere
                raise
            if demand == self._channels.demand and (len(kept | closed) == 1 or not kept):
                if not kept:
                    self._warn()
                channel.note_proof(with_branch=with_branch)
                return
        raise _short_lived()

    def _warn(self) -> None:
        if not self._is_warned_of:
            self._is_warned_of = True
            log.warning(
                "endpoint_keeps_no_connection",
                endpoint=self._number,
                message="its chain is proved before and after every question, over other connections than the "
                "answer's; switch keep-alive on at the endpoint or its proxy",
            )

    async def _request(
        self, channel: ProvedChannel, method: str, params: Sequence[object], answer: Answer[T]
    ) -> Answered[T]:
        started = self._clock.monotonic()
        try:
            return await channel.ask(method, params, answer)
        finally:
            self._request_ended(self._number, method, self._clock.monotonic() - started)


def _short_lived() -> EndpointFault:
    return EndpointFault(
        Fault.CONNECT,
        "no connection lasts for a proof of the chain and a question over it; "
        "switch keep-alive on at the endpoint or its proxy",
    )
