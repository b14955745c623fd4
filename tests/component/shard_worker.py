"""A sync worker whose side of the board of spans fails as told. Production code has no fail points.

Its board is wrapped; everything else is the real worker. Environment:

    SHARD_NOTES    a file: what happened on the board, a line each (`claim`, `hold`, `lie`)
    SHARD_START    as a leader, offer nothing before this file exists
    SHARD_AFTER    after so many claims …
    SHARD_DO       … `wait` until SHARD_GATE exists, holding nothing; `hold` the last claim, and do not renew it, until
                   then; or `lie` from then on, and stay when excluded
    SHARD_GATE     see above
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from wallet_core.ports import SpanBoard, SpanClaim
from wallet_core.settings import Role
from wallet_workers.__main__ import ROLES, main
from wallet_workers.wiring import Process

LOOK_SECONDS = 0.02


class FailingBoard:
    """See the module."""

    def __init__(self, board: SpanBoard, environ: Mapping[str, str]) -> None:
        self._board = board
        self._notes = Path(environ["SHARD_NOTES"])
        self._start = Path(environ["SHARD_START"])
        self._gate = Path(environ["SHARD_GATE"])
        self._after = int(environ.get("SHARD_AFTER", "0"))
        self._do = environ.get("SHARD_DO", "")
        self._claims = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)

    async def open(self, terms: bytes) -> str:
        await until_there(self._start)
        return await self._board.open(terms)

    async def terms(self) -> tuple[str, bytes] | None:
        standing = await self._board.terms()
        if standing is None or self._do != "lie":
            return standing
        return standing[0], json.dumps({**json.loads(standing[1]), "excluded": []}).encode()

    async def claim(self, cut: str) -> SpanClaim | None:
        if self._do == "wait" and self._claims >= self._after:
            await until_there(self._gate)
        claim = await self._board.claim(cut)
        if claim is not None:
            self._claims += 1
            self._note("claim")
            if self._do == "hold" and self._claims == self._after:
                self._note("hold")
                await until_there(self._gate)
        return claim

    async def put_back(self, claim: SpanClaim, result: bytes) -> bool:
        if self._do == "lie" and self._claims > self._after:
            result = lie(result, self._claims)
            self._note("lie")
        return await self._board.put_back(claim, result)

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(what + "\n")


async def until_there(file: Path) -> None:
    """Return once another process has made the file."""
    while not file.exists():  # noqa: ASYNC110 - a file of another process
        await asyncio.sleep(LOOK_SECONDS)


def lie(result: bytes, number: int) -> bytes:
    """One of six kinds of nonsense."""
    said = json.loads(result)
    last = said["blocks"][-1]
    match number % 6:
        case 0:
            return result[: len(result) // 2]
        case 1:
            last["hash"] = "0x" + "11" * 32
        case 2:
            del said["blocks"][len(said["blocks"]) // 2]
        case 3:
            said["generation"] -= 1
        case 4:
            said["settings_hash"] = "another"
        case 5:
            said["blocks"][0]["parent_hash"] = "0x" + "22" * 32
    return json.dumps(said).encode()


def run(environ: Mapping[str, str]) -> int:
    """The life of such a worker."""

    @asynccontextmanager
    async def failing_ports(settings: Any, process: Process) -> AsyncIterator[Any]:
        async with ROLES[Role.SYNC].ports(settings, process) as plain:
            yield replace(plain, board=FailingBoard(plain.board, environ))

    return main([Role.SYNC], environ, {Role.SYNC: replace(ROLES[Role.SYNC], ports=failing_ports)})
