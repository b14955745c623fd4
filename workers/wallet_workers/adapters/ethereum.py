"""The `Node` port over several endpoints: whichever comes first in the settings and works.

**Health.** An endpoint is *usable* once it has proved its chain id, until it fails. A question goes to the usable
endpoints in the order of the settings; where each of them fails, to the others too, so that an error is raised only
after every endpoint had its chance. There is no waiting and no second round in here: the caller's loop retries, with
its own back-off and the reason in `/status`.

An endpoint that failed is left alone for a time that doubles with each failure. When that is over and another one is
usable, it is asked for its chain id *beside* the questions, never before them, and comes back into its place in the
order. The doubling ends with the first real answer, not with the proof: one that knows its chain id and nothing else
stays out of the way.

**Chain.** The chain id is checked before an endpoint is first used, after each failure, and, because another node may
have taken over the URL, on every new connection before an answer from it is believed (one that keeps no connection is
asked twice each time). An endpoint of another chain is never used.

**Absent** is no failure of health: the block may be above that node's tip, or on another branch. The next endpoint is
asked; if none has it, `NodeInconsistent`.

What is raised, after all endpoints were asked: `NodeInconsistent` if one of the right chain answered and could not be
believed or did not have it; else `WrongChain` if one of another chain answered; else `RpcUnreachable`. The text lists
each endpoint by number and origin.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

from yarl import URL

from wallet_core.blocks import Block, Head, Header, Receipt
from wallet_core.errors import InvalidSetting, NodeInconsistent, RpcUnreachable, Unavailable, WrongChain
from wallet_core.ports import Clock
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.backoff import backoff_seconds
from wallet_workers.adapters.json_rpc import (
    Answer,
    Answered,
    Endpoint,
    EndpointFault,
    Fault,
    JsonRpc,
    new_session,
    origin,
    parse_url,
)
from wallet_workers.adapters.new_heads import HeadSubscription

T = TypeVar("T")


@dataclass(frozen=True)
class EndpointStatus:
    """An endpoint, as `/status` and metrics show it. Holds no secret."""

    number: int
    """Its place in `chain.rpc`, from 1."""
    origin: str
    """scheme://host:port"""
    is_usable: bool
    """Whether it has proved its chain id and has not failed since."""
    last_error: str | None
    """Why it is not usable; None where it is, or was not asked yet."""
    announces_heads: bool
    """Whether a subscription to new heads stands."""
    announcement_error: str | None
    """Why it does not."""


class EndpointEvents(Protocol):
    """Told of what happens, for metrics and logs. Must return at once and raise nothing."""

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None:
        """A request was answered or given up."""

    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        """An answer could not be used."""

    def endpoint_changed(self, status: EndpointStatus) -> None:
        """An endpoint became usable, or ceased to be."""


class EthereumNodes:
    """`wallet_core.ports.Node` over HTTP endpoints. Use as `async with`, or between `start` and `close`."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        chain_id: int,
        with_finalized: bool,
        clock: Clock,
        events: EndpointEvents,
        request_timeout_seconds: float = 10.0,
    ) -> None:
        """On the running loop. Raises InvalidSetting where there is no endpoint, or a text is no URL (not shown)."""
        if not endpoints:
            raise InvalidSetting("chain.rpc", "no endpoint")
        urls = [_urls(number, endpoint) for number, endpoint in enumerate(endpoints)]
        self._chain_id = chain_id
        self._with_finalized = with_finalized
        self._clock = clock
        self._events = events
        self._new_head = asyncio.Event()
        self._session = new_session()
        self._members = [
            _Member(number, url, JsonRpc(url, self._session, request_timeout_seconds))
            for number, (url, _) in enumerate(urls, start=1)
        ]
        for member, (_, ws_url) in zip(self._members, urls, strict=True):
            if ws_url is not None:
                member.heads = HeadSubscription(
                    ws_url,
                    self._session,
                    clock=clock,
                    timeout_seconds=request_timeout_seconds,
                    on_head=self._new_head.set,
                )
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe to new heads where an endpoint offers them. Waits for nothing: questions connect by themselves."""
        for member in self._members:
            if member.heads is not None:
                self._spawn(member.heads.run())

    async def close(self) -> None:
        """End every task and connection."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def endpoints_status(self) -> Sequence[EndpointStatus]:
        """Every endpoint, in the order of the settings."""
        return [member.status() for member in self._members]

    # --- the port -----------------------------------------------------------------------------------------------------

    async def head(self) -> Head:
        """See the port."""
        return await self._from_any(lambda ask: execution_api.head(ask, self._with_finalized))

    async def header(self, number: int) -> Header:
        """See the port."""
        return await self._from_any(lambda ask: execution_api.header(ask, number))

    async def block(self, number: int) -> Block:
        """See the port."""
        return await self._from_any(lambda ask: execution_api.block(ask, number))

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        """See the port."""
        return await self._from_any(lambda ask: execution_api.receipt(ask, transaction_hash, block_hash))

    async def wait_for_head(self, timeout_seconds: float) -> None:
        """For one waiter: an announcement since the last return counts, so that none is missed between two waits."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._new_head.wait()
        except TimeoutError:
            pass
        self._new_head.clear()

    # --- which endpoint -----------------------------------------------------------------------------------------------

    async def _from_any(self, question: Callable[[execution_api.Ask], Awaitable[T]]) -> T:
        """The answer of the first endpoint that has one. Raises NodeInconsistent, WrongChain or RpcUnreachable."""
        faults: list[tuple[_Member, EndpointFault]] = []
        for member in self._in_turn():
            try:
                if not member.is_usable:
                    await self._check_chain(member)
                answer = await question(partial(self._ask, member))
            except EndpointFault as fault:
                self._note_fault(member, fault)
                faults.append((member, fault))
            else:
                member.failures = 0
                return answer
        raise _verdict(faults)

    def _in_turn(self) -> Sequence[_Member]:
        """Usable endpoints first; one whose time to be left alone is over is proved anew beside them."""
        usable = [member for member in self._members if member.is_usable]
        others = [member for member in self._members if not member.is_usable]
        if usable:
            for member in others:
                if not member.is_being_proved and self._clock.monotonic() >= member.left_alone_until:
                    member.is_being_proved = True
                    self._spawn(self._prove(member))
        return [*usable, *others]

    async def _prove(self, member: _Member) -> None:
        try:
            await self._check_chain(member)
        except EndpointFault as fault:
            self._note_fault(member, fault)
        finally:
            member.is_being_proved = False

    async def _check_chain(self, member: _Member) -> None:
        """Make the endpoint usable, if it is of our chain. Raises EndpointFault."""
        await self._check_chain_id(partial(self._request, member))
        if not member.is_usable:
            member.is_usable, member.last_error = True, None
            self._events.endpoint_changed(member.status())

    async def _check_chain_id(self, ask: execution_api.Ask) -> None:
        found = await execution_api.chain_id(ask)
        if found != self._chain_id:
            raise EndpointFault(Fault.WRONG_CHAIN, f"is of chain {found}, not of chain {self._chain_id}")

    async def _ask(self, member: _Member, method: str, params: Sequence[object], answer: Answer[T]) -> Answered[T]:
        """One question; an answer that came over a new connection is believed after the chain id only."""
        answered = await self._request(member, method, params, answer)
        if answered.on_new_connection:
            await self._check_chain(member)
        return answered

    async def _request(self, member: _Member, method: str, params: Sequence[object], answer: Answer[T]) -> Answered[T]:
        started = self._clock.monotonic()
        try:
            return await member.rpc.ask(method, params, answer)
        finally:
            self._events.request_ended(member.number, method, self._clock.monotonic() - started)

    def _note_fault(self, member: _Member, fault: EndpointFault) -> None:
        self._events.endpoint_failed(member.number, fault.fault)
        if fault.fault is Fault.ABSENT:
            return
        now = self._clock.monotonic()
        was_usable, member.is_usable, member.last_error = member.is_usable, False, str(fault)
        # several questions that fail at once are one failure
        if was_usable or now >= member.left_alone_until:
            member.failures += 1
            member.left_alone_until = now + backoff_seconds(member.failures)
        if was_usable:
            self._events.endpoint_changed(member.status())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@dataclass
class _Member:
    """One endpoint with its health."""

    number: int
    url: URL
    rpc: JsonRpc
    heads: HeadSubscription | None = None
    is_usable: bool = False
    is_being_proved: bool = False
    """Whether a chain id is being asked for beside the questions."""
    failures: int = 0
    """In a row, without a real answer between them."""
    left_alone_until: float = -math.inf
    """By the monotonic clock."""
    last_error: str | None = None

    def status(self) -> EndpointStatus:
        return EndpointStatus(
            number=self.number,
            origin=origin(self.url),
            is_usable=self.is_usable,
            last_error=self.last_error,
            announces_heads=self.heads is not None and self.heads.is_subscribed,
            announcement_error=None if self.heads is None else self.heads.last_error,
        )


def _verdict(faults: Sequence[tuple[_Member, EndpointFault]]) -> Unavailable:
    text = "; ".join(f"endpoint {member.number} ({origin(member.url)}): {fault}" for member, fault in faults)
    kinds = {fault.fault for _, fault in faults}
    if kinds & {Fault.ABSENT, Fault.INCONSISTENT}:
        return NodeInconsistent(text)
    if Fault.WRONG_CHAIN in kinds:
        return WrongChain(text)
    return RpcUnreachable(text)


def _urls(index: int, endpoint: Endpoint) -> tuple[URL, URL | None]:
    setting = f"chain.rpc[{index}]"
    url = parse_url(endpoint.url, f"{setting}.url", ("http", "https"))
    ws_url = None if endpoint.ws_url is None else parse_url(endpoint.ws_url, f"{setting}.wsUrl", ("ws", "wss"))
    return url, ws_url
