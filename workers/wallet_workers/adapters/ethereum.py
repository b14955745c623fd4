"""The `Node` port over several endpoints.

Which endpoint is asked, and which is of our chain at all, `endpoints.py` decides; what a quorum agrees on,
`agreement.py`; how a head is judged, `heads.py`; what is asked and how each answer is checked, `execution_api.py`, and
with `chain.verify` also `verification.py`. Here these parts are put together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import structlog

from wallet_core.blocks import Block, Frame, Head, Header, Log, Receipt
from wallet_core.errors import Unavailable
from wallet_core.ports import Clock
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.agreement import agree
from wallet_workers.adapters.endpoints import EndpointEvents, Endpoints, EndpointStatus, Question, urls_of
from wallet_workers.adapters.heads import HeadJudge
from wallet_workers.adapters.json_rpc import Endpoint
from wallet_workers.adapters.verdict import Untraceable
from wallet_workers.adapters.verification import Verification

log = structlog.get_logger()

T = TypeVar("T")


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
        quorum: int = 1,
        verify: bool = False,
        stale_after_seconds: float = 0,
        request_timeout_seconds: float = 10.0,
    ) -> None:
        """On the running loop. Raises InvalidSetting, without a URL, as `urls_of` does."""
        urls = urls_of(endpoints)
        self._with_finalized = with_finalized
        self._quorum = quorum
        self._clock = clock
        self._verification = Verification() if verify else None
        self._announced = 0
        self._new_head = asyncio.Event()
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._endpoints = Endpoints(
            urls,
            self._session,
            chain_id=chain_id,
            quorum=quorum,
            clock=clock,
            events=events,
            request_timeout_seconds=request_timeout_seconds,
            on_head=self._announce,
        )
        self._heads = HeadJudge(self._endpoints, clock, stale_after_seconds)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe to new heads where an endpoint offers them. Waits for nothing: questions connect by themselves."""
        self._endpoints.subscribe()

    async def close(self) -> None:
        """End every task and connection."""
        await self._endpoints.close()
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
        return [member.status() for member in self._endpoints.members]

    # --- the port -----------------------------------------------------------------------------------------------------

    def expect_genesis(self, genesis_hash: str) -> None:
        """See the port."""
        self._endpoints.expect_genesis(genesis_hash)

    async def head(self) -> Head:
        """See the port. Where the first endpoint's tip is stale, the first one whose is not."""
        return await self._heads.head(lambda ask: execution_api.head(self._checked(ask), self._with_finalized))

    async def header(self, number: int) -> Header:
        """See the port."""
        return await self._answer(lambda ask: execution_api.header(ask, number))

    async def agreed_header(self, number: int, *, may_settle: bool = True) -> Header:
        """See the port."""
        if self._quorum == 1:
            return await self.header(number)
        return await agree(
            self._endpoints,
            lambda ask: execution_api.header(self._checked(ask), number),
            number,
            self._quorum,
            may_settle=may_settle,
        )

    async def block(self, number: int) -> Block:
        """See the port."""
        return await self._answer(lambda ask: execution_api.block(ask, number))

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        """See the port."""
        return await self._answer(lambda ask: execution_api.receipt(ask, transaction_hash, block_hash))

    async def logs(self, block: Header, contracts: Collection[str], topic: str) -> Sequence[Log]:
        """See the port."""
        return await self._answer(lambda ask: execution_api.logs(ask, block, contracts, topic))

    async def frames(self, block: Block) -> Mapping[str, Sequence[Frame] | None] | None:
        """See the port."""
        now = self._clock.monotonic()
        known: dict[str, Sequence[Frame]] = {}
        try:
            await self._endpoints.traced(lambda tracing, ask: tracing.frames(ask, block, now, known))
        except Untraceable as lack:
            if not lack.is_too_large:
                return None
            untraced = [each.hash for each in block.transactions if each.hash not in known]
            log.warning("transactions_untraced", block=block.header.number, transactions=untraced, message=str(lack))
        except Unavailable as error:
            raise type(error)(f"traces of block {block.header.number}: {error}") from None
        return {each.hash: known.get(each.hash) for each in block.transactions}

    async def wait_for_head(self, timeout_seconds: float, seen: int) -> int:
        """See the port."""
        if self._announced <= seen:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._new_head.wait()
            except TimeoutError:
                pass
        return self._announced

    async def _answer(self, question: Question[T]) -> T:
        """The first endpoint's that has one."""
        _, answer = await self._endpoints.from_any(lambda ask: question(self._checked(ask)))
        return answer

    def _checked(self, ask: execution_api.Ask) -> execution_api.Ask:
        return ask if self._verification is None else self._verification.over(ask)

    def _announce(self) -> None:
        """Wake everybody who waits now; who waits later sees the count."""
        self._announced += 1
        self._new_head.set()
        self._new_head = asyncio.Event()
