"""Known bugs, each planted by replacing one object that a role is given.

They show that the simulation finds what it is there to find. None of them touches production code: a port, or a role's
settings, is exchanged for one that behaves as the wallet with the bug would.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from simulation.wallet import Plant, World
from wallet_core.addresses import Address
from wallet_core.blocks import Receipt
from wallet_core.checkpoint import CHECKPOINT_KEY
from wallet_core.messages import Record, Topic
from wallet_core.ports import SpanClaim
from wallet_core.settings import Role


class _Instead:
    """Another object with something else in its place."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._original, attribute)


class _NodeWithoutReceipts(_Instead):
    """Skips the receipt: every transaction in a block is taken for a success."""

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        return Receipt(transaction_hash, block_hash, succeeded=True)


class _FeedReadBefore(_Instead):
    """Matches by the addresses as they were some time before: what the topic held when it was asked the last time."""

    def __init__(self, original: Any) -> None:
        super().__init__(original)
        self._ahead: Sequence[Sequence[Address]] | None = None

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        known, self._ahead = self._ahead, [batch async for batch in self._original.read_to_stable_end()]
        if known is None:
            known, self._ahead = self._ahead, []
        for batch in known:
            yield batch


class _LedgerOfIndices(_Instead):
    """Names a transfer by its place in the block."""

    def __init__(self, original: Any, world: World) -> None:
        super().__init__(original)
        self._world = world

    async def append(self, after: int, records: Sequence[Record]) -> int:
        return int(await self._original.append(after, [self._renamed(record) for record in records]))

    def _renamed(self, record: Record) -> Record:
        if record.topic != Topic.TRANSACTION:
            return record
        value = json.loads(record.value or b"null")
        if value["txid"] is None:
            return record
        block = self._world.history.blocks[value["block_hash"]]
        place = [each.hash for each in block.transactions].index(value["txid"])
        value["event_id"] = value["event_id"][:-2] + f"{place:02x}"
        ce_id = f"{value['event_id']}.{value['sequence']}".encode()
        headers = tuple((name, ce_id if name == "ce_id" else content) for name, content in record.headers)
        return replace(record, value=json.dumps(value).encode(), headers=headers)


class _LedgerUnread(_Instead):
    """Starts a producer for each append and writes, without a look at what was written since."""

    async def append(self, _after: int, records: Sequence[Record]) -> int:
        recovered = await self._original.recover()
        return int(await self._original.append(recovered.position, records))


class _LedgerForgetful(_Instead):
    """Keeps no deposits of a confirmed block: who reads the state back cannot take them back."""

    async def append(self, after: int, records: Sequence[Record]) -> int:
        return int(await self._original.append(after, [self._shortened(record) for record in records]))

    def _shortened(self, record: Record) -> Record:
        if record.topic != Topic.STATE_SYNC or not record.key.startswith(b"block:") or record.value is None:
            return record
        block = json.loads(record.value)
        return (
            replace(record, value=json.dumps(block | {"deposit_count": 0, "deposits": []}).encode())
            if block["confirmed"]
            else record
        )


class _NothingSaid(_Instead):
    """Reads what was said before, and finds nothing: a rewind then takes nothing back."""

    async def read(self) -> AsyncIterator[Sequence[bytes | None]]:
        async for _ in self._original.read():
            yield ()


class _BoardLeavingOut(_Instead):
    """Puts spans back without the transfers in them, and is believed: what nobody can check."""

    async def put_back(self, claim: SpanClaim, result: bytes) -> bool:
        told = json.loads(result)
        for block in told["blocks"]:
            block["deposits"], block["deposit_count"] = [], 0
        return bool(await self._original.put_back(claim, json.dumps(told).encode()))


class _LedgerOfOldAssets(_Instead):
    """Lets a new asset count from the first block on."""

    async def append(self, after: int, records: Sequence[Record]) -> int:
        return int(await self._original.append(after, [self._backdated(record) for record in records]))

    def _backdated(self, record: Record) -> Record:
        if record.topic != Topic.STATE_SYNC or record.key != CHECKPOINT_KEY:
            return record
        checkpoint = json.loads(record.value or b"null")
        checkpoint["asset_first_blocks"] = dict.fromkeys(checkpoint["asset_first_blocks"], 0)
        return replace(record, value=json.dumps(checkpoint).encode())


def _settled_without_quorum(settings: Any, role: Role, _world: World) -> Any:
    if role is not Role.SYNC:
        return settings
    return settings.model_copy(update={"chain": settings.chain.model_copy(update={"quorum": 1})})


def _settled_at_confirmation(settings: Any, role: Role, _world: World) -> Any:
    depth = settings.chain.confirmation.depth if role is Role.SYNC else None
    if depth is None:
        return settings
    return settings.model_copy(update={"chain": settings.chain.model_copy(update={"settle_depth": depth})})


PLANTS: Mapping[str, Plant] = {
    "skip the receipt": Plant(node=lambda node, _role, _world: _NodeWithoutReceipts(node)),
    "append before matching up to the last stable offset": Plant(
        feed=lambda feed, _role, _world: _FeedReadBefore(feed)
    ),
    "a place in the block as identity": Plant(ledger=lambda ledger, _role, world: _LedgerOfIndices(ledger, world)),
    "start a producer without reading the state back": Plant(
        ledger=lambda ledger, _role, _world: _LedgerUnread(ledger)
    ),
    "forget a rolled-back confirmed deposit": Plant(ledger=lambda ledger, _role, _world: _LedgerForgetful(ledger)),
    "settle at the confirmation": Plant(settings=_settled_at_confirmation),
    "settle without a quorum": Plant(settings=_settled_without_quorum),
    "take nothing back in a rewind": Plant(
        published=lambda events, role, _world: _NothingSaid(events) if role is Role.SYNC else events
    ),
    "believe a span that leaves transfers out": Plant(board=lambda board, _role, _world: _BoardLeavingOut(board)),
    "let a new asset count from the first block": Plant(
        ledger=lambda ledger, _role, _world: _LedgerOfOldAssets(ledger)
    ),
}
