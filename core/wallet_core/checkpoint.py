"""What sync keeps in `state.sync`: the ledger's records, made from a state and folded back into one.

One key a thing, so that compaction keeps the topic as small as the window:

- `identity`: whose topic this is. Written once, by bootstrap.
- `checkpoint`: base and tip of the window, the last sequence number, the settings that wrote it, the first block of
  each asset.
- `block:<number>`: an unsettled block with its deposits; a tombstone once it is settled or rolled back. What does not
  fit into one record goes on in `block:<number>:1`, `:2`, …
- `order:<id>`: what became of an order (`orders`); a tombstone once it is forgotten.
- `covered:<n>`: the digest of 1,024 settled blocks (`coverage`); only the newest bucket is part of the state.

A step writes only the keys that it changed, in the transaction that holds its events. Folding checks that the blocks
join the base to the tip without a gap; anything else is `CheckpointCorrupt`, for guessing here could credit twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from wallet_core.chain import BlockRef, Move, Window, WindowBlock
from wallet_core.coverage import Coverage, changed, cover, read_newest
from wallet_core.deposits import announce
from wallet_core.errors import (
    CheckpointCorrupt,
    CheckpointLost,
    GasAddressChanged,
    SettingsSuperseded,
    TopicsOfAnotherWallet,
)
from wallet_core.messages import Record, Topic
from wallet_core.orders import OrderBook, OrderState
from wallet_core.stored_blocks import StoredBlock, count_parts, stored_parts, window_block
from wallet_core.transfers import Scope

IDENTITY_KEY = b"identity"
CHECKPOINT_KEY = b"checkpoint"
_BLOCK_PREFIX = b"block:"
_ORDER_PREFIX = b"order:"
_VERSION = 1


@dataclass(frozen=True)
class Identity:
    """Whose topics these are."""

    namespace: str
    name: str
    chain_id: int
    genesis_hash: str
    """Hash of block 0: tells chains apart that share a number."""
    fingerprint: str
    """Of the account key, 40 hex digits."""


@dataclass(frozen=True)
class SyncState:
    """Everything that the leader of sync must know to go on."""

    window: Window
    sequence: int = 0
    """Number of the last event; the next one has `sequence + 1`."""
    generation: int = 0
    """Of the settings that wrote this; 0 from bootstrap."""
    settings_hash: str = ""
    """Likewise."""
    asset_first_blocks: Mapping[str, int] = field(default_factory=dict)
    """From which block on each asset is reported, by its `key` in the settings (a changed symbol is no new asset)."""
    gas_address: str | None = None
    """Where the wallet pays gas from: a transfer from it is never a deposit, also after the resource forgot it."""
    orders: OrderBook = field(default_factory=OrderBook)
    """The orders that are known, and how far `orders` was read."""
    replay_to: int | None = None
    """After a rewind: the highest block that something was said of before; see `rewinds`. None: nothing is repeated."""
    coverage: Coverage = field(default_factory=Coverage)
    """Which settled blocks were read."""

    @property
    def scope(self) -> Scope:
        """What is reported in this state."""
        return Scope(self.asset_first_blocks, self.gas_address)


class _StoredCheckpoint(msgspec.Struct):
    version: int
    base: BlockRef
    tip: BlockRef
    sequence: int
    generation: int
    settings_hash: str
    asset_first_blocks: dict[str, int]
    gas_address: str | None = None
    orders_position: int = 0
    replay_to: int | None = None


def identity_record(identity: Identity) -> Record:
    """The record that claims the state topic."""
    return Record(Topic.STATE_SYNC, IDENTITY_KEY, msgspec.json.encode(identity))


def check_identity(found: Identity, **expected: object) -> None:
    """Raises TopicsOfAnotherWallet where the identity that claims the state topic differs in a field named here."""
    differing = {name: value for name, value in expected.items() if getattr(found, name) != value}
    if differing:
        told = ", ".join(f"{name} {getattr(found, name)} (here: {value})" for name, value in differing.items())
        raise TopicsOfAnotherWallet(
            f"the topics belong to a wallet of {told}; give this wallet a topicPrefix of its own"
        )


def read_identity(values: Mapping[bytes, bytes]) -> Identity | None:
    """Whose topic it is; None where nobody claimed it. Raises CheckpointCorrupt."""
    if IDENTITY_KEY not in values:
        return None
    try:
        return msgspec.json.decode(values[IDENTITY_KEY], type=Identity)
    except msgspec.MsgspecError as error:
        raise CheckpointCorrupt(f"state.sync: {IDENTITY_KEY.decode()}: {error}") from error


def state_records(before: SyncState | None, after: SyncState) -> list[Record]:
    """What to write so that the topic holds `after`, where it holds `before`. Nothing where they are equal."""
    if before == after:
        return []
    old = {block.number: block for block in before.window.blocks} if before else {}
    new = {block.number: block for block in after.window.blocks}
    records: list[Record] = []
    for number in sorted(old.keys() | new.keys()):
        before_block, after_block = old.get(number), new.get(number)
        if before_block != after_block:
            written = _block_records(after_block) if after_block else []
            records += written
            records += [Record(Topic.STATE_SYNC, key, None) for key in _block_keys(before_block)[len(written) :]]
    records += _order_records(before.orders if before else OrderBook(), after.orders)
    records += _coverage_records(before, after)
    records.append(
        Record(
            Topic.STATE_SYNC,
            CHECKPOINT_KEY,
            msgspec.json.encode(
                _StoredCheckpoint(
                    version=_VERSION,
                    base=after.window.base,
                    tip=after.window.tip,
                    sequence=after.sequence,
                    generation=after.generation,
                    settings_hash=after.settings_hash,
                    asset_first_blocks=dict(after.asset_first_blocks),
                    gas_address=after.gas_address,
                    orders_position=after.orders.position,
                    replay_to=after.replay_to,
                )
            ),
        )
    )
    return records


def read_state(values: Mapping[bytes, bytes]) -> SyncState:
    """The state that the topic holds. Raises CheckpointLost where it holds none, CheckpointCorrupt for nonsense."""
    if CHECKPOINT_KEY not in values:
        raise CheckpointLost("state.sync holds no checkpoint")
    try:
        stored = msgspec.json.decode(values[CHECKPOINT_KEY], type=_StoredCheckpoint)
        blocks = _read_blocks(values)
        orders = read_orders(values)
        coverage = read_newest(values, stored.base.number)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CheckpointCorrupt(f"state.sync: {error}") from error
    if stored.version != _VERSION:
        raise CheckpointCorrupt(f"state.sync is of version {stored.version}; this release reads version {_VERSION}")
    window = Window(stored.base, tuple(sorted(blocks, key=lambda block: block.number)))
    parent = window.base
    for block in window.blocks:
        if block.number != parent.number + 1 or block.parent_hash != parent.hash:
            raise CheckpointCorrupt(f"state.sync: block {block.number} does not follow block {parent.number}")
        parent = block.ref
    if window.tip != stored.tip:
        raise CheckpointCorrupt(
            f"state.sync: the blocks end at {window.tip.number}, the checkpoint at {stored.tip.number}"
        )
    return SyncState(
        window,
        stored.sequence,
        stored.generation,
        stored.settings_hash,
        stored.asset_first_blocks,
        stored.gas_address,
        OrderBook(stored.orders_position, orders),
        stored.replay_to,
        coverage,
    )


def read_orders(values: Mapping[bytes, bytes]) -> tuple[OrderState, ...]:
    """What became of the orders that are still known, as they were taken. Raises CheckpointCorrupt."""
    try:
        orders = [
            msgspec.json.decode(value, type=OrderState)
            for key, value in values.items()
            if key.startswith(_ORDER_PREFIX)
        ]
    except msgspec.MsgspecError as error:
        raise CheckpointCorrupt(f"state.sync: {error}") from error
    return tuple(sorted(orders, key=lambda order: order.place))


def with_settings(
    state: SyncState, generation: int, settings_hash: str, assets: Sequence[str], gas_address: str | None
) -> SyncState:
    """The state under new settings: an asset that is new starts at the next block, one that is gone is forgotten.

    `assets` are the settings' assets by their `key`. The gas address, once set, stays. Raises SettingsSuperseded where
    a worker with newer settings wrote the state, GasAddressChanged where the settings name another gas address.
    """
    if state.generation > generation:
        raise SettingsSuperseded(
            f"the checkpoint was written with settings of generation {state.generation}, this worker has {generation}",
            state.generation,
        )
    if state.gas_address and gas_address and state.gas_address.lower() != gas_address.lower():
        raise GasAddressChanged(
            f"spec.sweep.gasAddress was {state.gas_address} and cannot become {gas_address}: put it back"
        )
    next_block = state.window.tip.number + 1
    return replace(
        state,
        generation=generation,
        settings_hash=settings_hash,
        asset_first_blocks={asset: state.asset_first_blocks.get(asset, next_block) for asset in assets},
        gas_address=state.gas_address or gas_address,
    )


def after_move(state: SyncState, move: Move, chain_id: int, source: str) -> tuple[SyncState, list[Record]]:
    """The state after a move of the chain, and the events that it publishes, numbered on from the state's sequence."""
    events = [
        announce(said, state.sequence + n, chain_id, source) for n, said in enumerate(move.announcements, start=1)
    ]
    ours = (*(block.ref for block in state.window.blocks), *move.joined)
    coverage = cover(state.coverage, (ref for ref in ours if ref.number <= move.window.base.number))
    after = replace(
        state,
        window=move.window,
        sequence=state.sequence + len(events),
        asset_first_blocks=lowered(state.asset_first_blocks, move.window.tip.number + 1),
        coverage=coverage,
    )
    return after, events


def lowered(first_blocks: Mapping[str, int], next_block: int) -> Mapping[str, int]:
    """From which block on each asset is reported, where `next_block` is the next one that is read.

    An asset that was added counts from the next block on: of whichever branch. A fork below its first block may move a
    transfer that was reported there to a lower one of the new branch.
    """
    return {asset: min(first, next_block) for asset, first in first_blocks.items()}


def _block_keys(block: WindowBlock | None) -> list[bytes]:
    """The keys of the records that hold a block, in order."""
    if block is None:
        return []
    key = _BLOCK_PREFIX + str(block.number).encode()
    return [key, *(key + b":%d" % part for part in range(1, count_parts(block)))]


def _block_records(block: WindowBlock) -> list[Record]:
    return [
        Record(Topic.STATE_SYNC, key, msgspec.json.encode(part))
        for key, part in zip(_block_keys(block), stored_parts(block), strict=True)
    ]


def _read_blocks(values: Mapping[bytes, bytes]) -> list[WindowBlock]:
    parts: dict[int, dict[int, StoredBlock]] = {}
    for key, value in values.items():
        if key.startswith(_BLOCK_PREFIX):
            number, _, part = key.removeprefix(_BLOCK_PREFIX).partition(b":")
            stored = msgspec.json.decode(value, type=StoredBlock)
            parts.setdefault(int(number), {})[int(part or 0)] = stored
    return [window_block(*(stored for _, stored in sorted(of_block.items()))) for of_block in parts.values()]


def _order_records(before: OrderBook, after: OrderBook) -> list[Record]:
    old = {order.id: order for order in before.orders}
    new = {order.id: order for order in after.orders}
    records = [Record(Topic.STATE_SYNC, _order_key(name), None) for name in sorted(old.keys() - new.keys())]
    return records + [
        Record(Topic.STATE_SYNC, _order_key(name), msgspec.json.encode(order))
        for name, order in new.items()
        if old.get(name) != order
    ]


def _coverage_records(before: SyncState | None, after: SyncState) -> list[Record]:
    base = after.window.base.number
    old, old_base = (before.coverage, before.window.base.number) if before else (Coverage(), base)
    return [Record(Topic.STATE_SYNC, key, value) for key, value in changed(old, old_base, after.coverage, base).items()]


def _order_key(order_id: str) -> bytes:
    return _ORDER_PREFIX + order_id.encode()
