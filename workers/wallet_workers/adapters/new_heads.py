"""The announcement of new heads over WebSocket (`eth_subscribe`, `newHeads`).

An announcement only wakes whoever waits; nothing that it says is read. So a WebSocket that lies, repeats itself,
belongs to another chain or falls silent can cost a look too many or a poll's wait, and nothing else: who waits always
has a time-out of his own. Silence is told from a dead connection by pings. Reconnects with back-off, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import msgspec
from yarl import URL

from wallet_core.ports import Clock
from wallet_workers.adapters.backoff import backoff_seconds
from wallet_workers.adapters.json_rpc import FOREIGN_ERRORS, EndpointFault, Fault, translate

PING_SECONDS = 10.0
"""A connection whose pong does not come within half of that is given up."""
MESSAGE_BYTES_MAX = 1024 * 1024
_SUBSCRIBE = '{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}'


class _Message(msgspec.Struct, gc=False):
    id: int | str | None = None
    method: str | None = None
    result: object = None


_MESSAGE = msgspec.json.Decoder(_Message)


class HeadSubscription:
    """One endpoint's announcements, for as long as `run` runs."""

    def __init__(
        self,
        url: URL,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        timeout_seconds: float,
        on_head: Callable[[], None],
    ) -> None:
        self._url = url
        self._session = session
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._on_head = on_head
        self.is_subscribed = False
        """Whether the node has accepted the subscription and the connection stands."""
        self.last_error: str | None = None

    async def run(self) -> None:
        """Announce until cancelled."""
        failures = 0
        while True:
            try:
                await self._follow()
            except FOREIGN_ERRORS as error:
                self.last_error = str(translate(error))
            except EndpointFault as fault:
                self.last_error = str(fault)
            failures = 1 if self.is_subscribed else failures + 1
            self.is_subscribed = False
            await self._clock.sleep(backoff_seconds(failures))

    async def _follow(self) -> None:
        """Subscribe and announce until the connection ends."""
        async with asyncio.timeout(self._timeout_seconds) as deadline:
            async with self._session.ws_connect(
                self._url, heartbeat=PING_SECONDS, max_msg_size=MESSAGE_BYTES_MAX
            ) as socket:
                await socket.send_str(_SUBSCRIBE)
                async for message in socket:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        continue
                    said = _MESSAGE.decode(message.data)
                    if said.id == 1 and not self.is_subscribed:
                        if said.result is None:
                            raise EndpointFault(Fault.RPC_ERROR, "the node refuses to announce new heads")
                        deadline.reschedule(None)
                        self.is_subscribed = True
                        self.last_error = None
                        self._on_head()  # one may have come before the subscription stood
                    elif said.method == "eth_subscription":
                        self._on_head()
        raise EndpointFault(Fault.CONNECT, "the connection for new heads was closed")
