"""A balancer on loopback: each connection to its one port leads to the node that was named for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from stub_node import Stub
from wallet_workers.adapters.json_rpc import Endpoint

_PIECE_BYTES = 65_536


class Balancer:
    """`choose` names the node for the next connection; `chosen` are the nodes of those made so far."""

    def __init__(self, choose: Callable[[], Stub]) -> None:
        self.choose = choose
        self.chosen: list[Stub] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.endpoint = Endpoint(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.break_connections()
        self._server.close()
        await self._server.wait_closed()

    def break_connections(self) -> None:
        """End every connection; the next question makes a new one."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node = self.choose()
        self.chosen.append(node)
        from_node, to_node = await asyncio.open_connection("127.0.0.1", node.port)
        self._writers += [writer, to_node]
        await asyncio.gather(_pass_on(reader, to_node), _pass_on(from_node, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()
