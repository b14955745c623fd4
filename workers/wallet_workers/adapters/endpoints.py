"""Several endpoints of one chain: which of them is asked, and which is believed.

**Health.** An endpoint is *usable* once it has proved its chain, until it fails. A question goes to the usable
endpoints in the order of the settings; where each of them fails, to the others too, so that an error is raised only
after every endpoint had its chance. There is no waiting and no second round in here: the caller's loop retries, with
its own back-off and the reason in `/status`. Among the usable ones those whose tip is stale (`heads.py`) come last, for
one that stopped may have stopped on a branch that the others have left.

An endpoint that failed is left alone for a time that doubles with each failure. When that is over and another one is
usable, it is asked to prove its chain *beside* the questions, never before them, and comes back into its place in the
order. The doubling ends with the first real answer, not with the proof: one that proves its chain and nothing else
stays out of the way.

**Chain.** What an endpoint proves, and against what, `chain_proof.py` says. The proof is asked for before the endpoint
is first used, after each failure, and, because behind one URL there may be several nodes, on every connection before an
answer that came over it is believed (`proved_answers.py`). An endpoint of another chain is never used. Where the chain
has left the block that proves the branch, nobody is usable until the proof without it, and whatever was asked before
is asked again.

**Absent** is no failure of health, nor is something of another block than asked for: the block may be above that node's
tip, or on another branch. The next endpoint is asked; if none has it, `NodeInconsistent`.

What is raised, after all endpoints were asked, `verdict.py` says.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import aiohttp
from yarl import URL

from wallet_core.errors import InvalidSetting
from wallet_core.ports import Clock
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.backoff import backoff_seconds
from wallet_workers.adapters.chain_proof import ChainProof
from wallet_workers.adapters.channels import Channels
from wallet_workers.adapters.json_rpc import Endpoint, EndpointFault, Fault, origin, parse_url
from wallet_workers.adapters.new_heads import HeadSubscription
from wallet_workers.adapters.proved_answers import ProvedAnswers, Unproved
from wallet_workers.adapters.traces import Tracing
from wallet_workers.adapters.verdict import NOT_COUNTED, NOT_TO_BLAME, WITHOUT_TRACES, verdict

T = TypeVar("T")
Question = Callable[[execution_api.Ask], Awaitable[T]]
"""Asks one endpoint what it needs to know, and raises EndpointFault."""


@dataclass(frozen=True)
class EndpointStatus:
    """An endpoint, as `/status` and metrics show it. Holds no secret."""

    number: int
    """Its place in `chain.rpc`, from 1."""
    origin: str
    """scheme://host:port"""
    is_usable: bool
    """Whether it has proved its chain and has not failed since."""
    last_error: str | None
    """Why it is not usable; None where it is, or was not asked yet."""
    announces_heads: bool
    """Whether a subscription to new heads stands."""
    announcement_error: str | None
    """Why it does not."""
    traces: str
    """The method by which it traces blocks, `none`, or `unknown` before it was asked."""


class EndpointEvents(Protocol):
    """Told of what happens, for metrics and logs. Must return at once and raise nothing."""

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None:
        """A request was answered or given up."""

    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        """An answer could not be used, or is not to be trusted."""

    def endpoint_changed(self, status: EndpointStatus) -> None:
        """An endpoint became usable, or ceased to be."""


@dataclass(eq=False)
class Member:
    """One endpoint with its health."""

    number: int
    url: URL
    channels: Channels
    answers: ProvedAnswers
    heads: HeadSubscription | None = None
    is_usable: bool = False
    is_being_proved: bool = False
    """Whether its chain is being asked for beside the questions."""
    failures: int = 0
    """In a row, without a real answer between them."""
    left_alone_until: float = -math.inf
    """By the monotonic clock."""
    last_error: str | None = None
    is_stale: bool = False
    """Whether its last head was stale."""
    tracing: Tracing = field(default_factory=Tracing)

    @property
    def name(self) -> str:
        """As errors name it."""
        return f"endpoint {self.number} ({origin(self.url)})"

    def status(self) -> EndpointStatus:
        """What may be shown."""
        return EndpointStatus(
            number=self.number,
            origin=origin(self.url),
            is_usable=self.is_usable,
            last_error=self.last_error,
            announces_heads=self.heads is not None and self.heads.is_subscribed,
            announcement_error=None if self.heads is None else self.heads.last_error,
            traces=self.tracing.found,
        )


class Endpoints:
    """The endpoints of one wallet. Use between its making, on the running loop, and `close`."""

    def __init__(
        self,
        urls: Sequence[tuple[URL, URL | None]],
        session: aiohttp.ClientSession,
        *,
        chain_id: int,
        quorum: int,
        clock: Clock,
        events: EndpointEvents,
        request_timeout_seconds: float,
        on_head: Callable[[], None],
    ) -> None:
        """`urls`: by `urls_of`. The session is for announcements of new heads; at each of them `on_head` is called."""
        self._clock = clock
        self._events = events
        self.proof = ChainProof(chain_id, quorum, on_left=self._leave_branch)
        self.members: Sequence[Member] = [
            self._member(number, url, Channels(url, request_timeout_seconds))
            for number, (url, _) in enumerate(urls, start=1)
        ]
        for member, (_, ws_url) in zip(self.members, urls, strict=True):
            if ws_url is not None:
                member.heads = HeadSubscription(
                    ws_url, session, clock=clock, timeout_seconds=request_timeout_seconds, on_head=on_head
                )
        self._tasks: set[asyncio.Task[None]] = set()

    def _member(self, number: int, url: URL, channels: Channels) -> Member:
        answers = ProvedAnswers(number, channels, self.proof, self._clock, self._events.request_ended)
        return Member(number, url, channels, answers)

    def subscribe(self) -> None:
        """Follow new heads where an endpoint announces them."""
        for member in self.members:
            if member.heads is not None:
                self._spawn(member.heads.run())

    async def close(self) -> None:
        """End every task and every connection for questions."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(member.channels.close() for member in self.members))

    def expect_genesis(self, genesis_hash: str) -> None:
        """Use only endpoints with this block 0; those that proved another one must prove themselves anew."""
        if self.proof.expect_genesis(genesis_hash):
            for member in self.members:
                self._demand_anew(member)

    def _leave_branch(self) -> None:
        """Let everybody prove the chain anew, in the order of the settings; to have left with it is no failure."""
        for member in self.members:
            was_usable = member.is_usable
            self._demand_anew(member)
            member.failures, member.left_alone_until = 0, -math.inf
            if was_usable:
                self._events.endpoint_changed(member.status())

    def _demand_anew(self, member: Member) -> None:
        member.is_usable = False
        member.channels.demand += 1

    # --- questions ----------------------------------------------------------------------------------------------------

    async def from_any(self, question: Question[T]) -> tuple[Member, T]:
        """The first endpoint that has an answer, and what it is. Raises what `verdict` says."""
        answered = await self._first(self._in_turn(), lambda _, ask: question(ask))
        if isinstance(answered, tuple):
            return answered
        raise self._verdict(answered)

    async def traced(self, question: Callable[[Tracing, execution_api.Ask], Awaitable[T]]) -> T:
        """The same for a question about traces, of endpoints that are worth waiting for. Also raises Untraceable."""
        members = self._in_turn()
        now = self._clock.monotonic()
        asked = [member for member in members if member.is_usable or member.tracing.is_waited_for(now)] or members
        answered = await self._first(asked, lambda member, ask: question(member.tracing, ask))
        if isinstance(answered, tuple):
            return answered[1]
        now = self._clock.monotonic()
        for member, fault in answered:
            if fault.fault not in WITHOUT_TRACES:
                member.tracing.note_in_vain(now)
        missed = [each for each in answered if each[1].fault in WITHOUT_TRACES or each[0].tracing.is_waited_for(now)]
        raise self._verdict(missed or answered)

    async def _first(
        self, members: Sequence[Member], question: Callable[[Member, execution_api.Ask], Awaitable[T]]
    ) -> tuple[Member, T] | list[tuple[Member, EndpointFault]]:
        """The first member with an answer, and what it is; or what was wrong with each."""
        faults: list[tuple[Member, EndpointFault]] = []
        times_left = self.proof.times_left
        for member in members:
            try:
                answer = await self._answer(member, partial(question, member), with_branch=True)
            except EndpointFault as fault:
                self.note_fault(member, fault)
                faults.append((member, fault))
            else:
                member.failures = 0
                return member, answer
            if self.proof.times_left != times_left:
                break  # who still has the block that the chain has left is not believed instead of those who left it
        return faults

    def _verdict(self, faults: Sequence[tuple[Member, EndpointFault]]) -> Exception:
        return verdict([(member.name, fault) for member, fault in faults])

    async def from_one(self, member: Member, question: Question[T], *, on_any_branch: bool = False) -> T:
        """One endpoint's answer, if it is of our chain, and of our branch where that matters.

        Raises EndpointFault, which is noted.
        """
        try:
            answer = await self._answer(member, question, with_branch=not on_any_branch)
        except EndpointFault as fault:
            self.note_fault(member, fault)
            raise
        if member.is_usable:
            member.failures = 0
        return answer

    async def _answer(self, member: Member, question: Question[T], *, with_branch: bool) -> T:
        """Raises EndpointFault, be it the proof's or the question's."""
        times_left = self.proof.times_left
        try:
            if not member.is_usable:
                await self._prove(member, with_branch=with_branch)
            answer = await question(partial(member.answers.ask, with_branch))
        except Unproved as unproved:
            raise unproved.fault from None
        if with_branch and self.proof.times_left != times_left:
            raise EndpointFault(Fault.OTHER_BLOCK, "the chain has left a block meanwhile that endpoints agreed on")
        return answer

    def note_fault(self, member: Member, fault: EndpointFault) -> None:
        """Count a fault; unless it may just be late, the endpoint must prove its chain before it is used again."""
        if fault.fault in NOT_COUNTED:
            return
        self._events.endpoint_failed(member.number, fault.fault)
        if fault.fault in NOT_TO_BLAME:
            return
        if fault.fault is Fault.DISAGREES:
            member.channels.demand += 1
        now = self._clock.monotonic()
        was_usable, member.is_usable, member.last_error = member.is_usable, False, str(fault)
        # several questions that fail at once are one failure
        if was_usable or now >= member.left_alone_until:
            member.failures += 1
            member.left_alone_until = now + backoff_seconds(member.failures)
        if was_usable:
            self._events.endpoint_changed(member.status())

    def note_suspicion(self, member: Member, fault: Fault) -> None:
        """Count something that may be a lie and may be true; the endpoint stays as usable as it was."""
        self._events.endpoint_failed(member.number, fault)

    # --- the proof ----------------------------------------------------------------------------------------------------

    def _in_turn(self) -> Sequence[Member]:
        """Usable endpoints first, fresh ones before stale ones; others are proved beside them when it is time."""
        self.prove_beside()
        usable = sorted((each for each in self.members if each.is_usable), key=lambda each: each.is_stale)
        return [*usable, *(member for member in self.members if not member.is_usable)]

    def prove_beside(self) -> None:
        """Where one is usable, let the others prove their chain beside the questions when it is time."""
        if any(member.is_usable for member in self.members):
            for member in self.members:
                is_due = not member.is_being_proved and self._clock.monotonic() >= member.left_alone_until
                if is_due and not member.is_usable:
                    member.is_being_proved = True
                    self._spawn(self._prove_beside(member))

    async def _prove_beside(self, member: Member) -> None:
        try:
            await self._prove(member, with_branch=True)
        except EndpointFault as fault:
            self.note_fault(member, fault)
        finally:
            member.is_being_proved = False

    async def _prove(self, member: Member, *, with_branch: bool) -> None:
        """Prove the chain anew; with its branch it makes the endpoint usable. Raises EndpointFault."""
        await member.answers.prove(with_branch=with_branch)
        if with_branch and not member.is_usable:
            member.is_usable, member.last_error = True, None
            self._events.endpoint_changed(member.status())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def urls_of(endpoints: Sequence[Endpoint]) -> Sequence[tuple[URL, URL | None]]:
    """Each endpoint's HTTP and WebSocket URL.

    Raises InvalidSetting where there is none, where a text is no URL, and where one is there twice.
    """
    if not endpoints:
        raise InvalidSetting("chain.rpc", "no endpoint")
    found = [_urls(number, endpoint) for number, endpoint in enumerate(endpoints)]
    urls = [url.with_port(url.port) for url, _ in found]  # the default port is as good as none
    for place, url in enumerate(urls):
        if url in urls[:place]:  # one node would have two votes in a quorum
            raise InvalidSetting(f"chain.rpc[{place}].url", f"the same as chain.rpc[{urls.index(url)}].url")
    return found


def _urls(index: int, endpoint: Endpoint) -> tuple[URL, URL | None]:
    setting = f"chain.rpc[{index}]"
    url = parse_url(endpoint.url, f"{setting}.url", ("http", "https"))
    ws_url = None if endpoint.ws_url is None else parse_url(endpoint.ws_url, f"{setting}.wsUrl", ("ws", "wss"))
    return url, ws_url
