"""A scanner that is out of its mind, or somebody else who writes to the board: results of spans that are not true.

What is true but for a transfer left out is not among them, for nobody could tell (see `wallet_core.spans`); a planted
bug does that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from simulation.faults import Faults
from simulation.trace import Trace, What
from simulation.virtual_loop import VirtualLoop
from wallet_core.errors import RedisUnreachable
from wallet_core.ports import SpanBoard, SpanClaim

LATE_SECONDS = (0.5, 3.0, 30.0)
Result = dict[str, Any]


class LyingBoard:
    """Port `SpanBoard`, as a process sees it whose results are sometimes wrong."""

    def __init__(
        self, board: SpanBoard, loop: VirtualLoop, faults: Faults, trace: Trace, recipients: Callable[[], list[str]]
    ) -> None:
        """`recipients`: addresses that are published, to invent deposits to."""
        self._board = board
        self._loop = loop
        self._faults = faults
        self._trace = trace
        self._recipients = recipients

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._board, attribute)

    async def put_back(self, claim: SpanClaim, result: bytes) -> bool:
        """See the port."""
        if not self._faults.lies():
            return await self._board.put_back(claim, result)
        lie = self._faults.choose(("late", "twice", "undecodable", *_LIES))
        self._trace.add(f"LIE about {claim.span!r}: {lie}")
        match lie:
            case "late":
                self._trace.happened(What.SPAN_LATE)
                self._loop.start_in_world(self._put_back_late(claim, result), "late result")
                return True
            case "twice":
                self._trace.happened(What.SPAN_TWICE)
                first = await self._board.put_back(claim, result)
                return await self._board.put_back(claim, result) or first
            case "undecodable":
                return await self._board.put_back(claim, result[: len(result) // 2])
        told = json.loads(result)
        _LIES[lie](told, self._faults, self._recipients())
        return await self._board.put_back(claim, json.dumps(told).encode())

    async def _put_back_late(self, claim: SpanClaim, result: bytes) -> None:
        await asyncio.sleep(self._faults.choose(LATE_SECONDS))
        try:
            await self._board.put_back(claim, result)
        except RedisUnreachable:
            return


def _invent(told: Result, faults: Faults, recipients: list[str]) -> None:
    block = faults.choose(told["blocks"])
    invented = {
        "event_id": "ab" * 32,
        "txid": "0x" + "cd" * 32,
        "from": None,
        "to": faults.choose(recipients) if recipients else "0x" + "11" * 20,
        "amount": str(10**18),
        "asset": {"symbol": "ETH", "contract": None, "decimals": 18},
    }
    block["deposits"].append(invented)
    block["deposit_count"] += 1


def _raise_amount(told: Result, faults: Faults, recipients: list[str]) -> None:
    deposits = [deposit for block in told["blocks"] for deposit in block["deposits"]]
    if deposits:
        deposit = faults.choose(deposits)
        deposit["amount"] = str(int(deposit["amount"]) * 10)
    else:
        _invent(told, faults, recipients)


def _set(field: str, value: object) -> Callable[[Result, Faults, list[str]], None]:
    return lambda told, _faults, _recipients: told.update({field: value})


def _set_in(place: int, field: str, value: object) -> Callable[[Result, Faults, list[str]], None]:
    return lambda told, _faults, _recipients: told["blocks"][place].update({field: value})


_LIES: Mapping[str, Callable[[Result, Faults, list[str]], None]] = {
    "another cut": _set("cut", "scanner-0-0"),
    "another span": lambda told, _f, _r: told["span"].update(first=told["span"]["first"] + 1),
    "an old generation": _set("generation", 0),
    "other settings": _set("settings_hash", "0" * 16),
    "no addresses": _set("addresses", 0),
    "a gap": lambda told, _f, _r: told["blocks"].pop(len(told["blocks"]) // 2),
    "a verdict": _set_in(3, "confirmed", True),
    "another parent": _set_in(0, "parent_hash", "0x" + "ee" * 32),
    "another hash": _set_in(-1, "hash", "0x" + "ee" * 32),
    "an invented deposit": _invent,
    "a raised amount": _raise_amount,
}
