"""What sync keeps in `state.sync`: the ledger's records, made from a state and folded back into one.

One key a thing, so that compaction keeps the topic as small as the window:

- `identity`: whose topic this is. Written once, by bootstrap.
- `checkpoint`: base and tip of the window, the last sequence number, the settings that wrote it, the first block of
  each asset.
- `block:<number>`: an unsettled block with its deposits; a tombstone once it is settled or rolled back. What does not
  fit into one record goes on in `block:<number>:1`, `:2`, …

A step writes only the keys that it changed, in the transaction that holds its events. Folding checks that the blocks
join the base to the tip without a gap; anything else is `CheckpointCorrupt`, for guessing here could credit twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from wallet_core.addresses import checksum_address, parse_address
from wallet_core.amounts import BaseUnits
from wallet_core.chain import BlockRef, Move, Window, WindowBlock
from wallet_core.deposits import Deposit, announce
from wallet_core.errors import (
    CheckpointCorrupt,
    CheckpointLost,
    GasAddressChanged,
    SettingsSuperseded,
    TopicsOfAnotherWallet,
)
from wallet_core.messages import Record, Topic, TransactionAsset

IDENTITY_KEY = b"identity"
CHECKPOINT_KEY = b"checkpoint"
_BLOCK_PREFIX = b"block:"
_VERSION = 1
DEPOSITS_PER_RECORD_MAX = 1_000
"""About 350 KB: a block full of deposits must not outgrow what a broker takes as one record (1 MiB)."""


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
    """From which block on each asset is reported, by its key in the settings."""
    gas_address: str | None = None
    """Where the wallet pays gas from: a transfer from it is never a deposit, also after the resource forgot it."""


class _StoredAsset(msgspec.Struct):
    symbol: str
    contract: str | None
    decimals: int


class _StoredDeposit(msgspec.Struct, rename={"sender": "from", "recipient": "to"}):
    event_id: str
    txid: str
    sender: str
    recipient: str
    amount: str
    asset: _StoredAsset


class _StoredBlock(msgspec.Struct):
    number: int
    hash: str
    parent_hash: str
    timestamp: int
    confirmed: bool
    deposit_count: int
    """Of the whole block, over all its records."""
    deposits: list[_StoredDeposit]


class _StoredCheckpoint(msgspec.Struct):
    version: int
    base: BlockRef
    tip: BlockRef
    sequence: int
    generation: int
    settings_hash: str
    asset_first_blocks: dict[str, int]
    gas_address: str | None = None


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
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
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
    )


def with_settings(
    state: SyncState, generation: int, settings_hash: str, assets: Sequence[str], gas_address: str | None
) -> SyncState:
    """The state under new settings: an asset that is new starts at the next block, one that is gone is forgotten.

    `assets` are their keys. The gas address, once set, stays. Raises SettingsSuperseded where a worker with newer
    settings wrote the state, GasAddressChanged where the settings name another gas address.
    """
    if state.generation > generation:
        raise SettingsSuperseded(
            f"the checkpoint was written with settings of generation {state.generation}, this worker has {generation}"
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
    return replace(state, window=move.window, sequence=state.sequence + len(events)), events


def _block_keys(block: WindowBlock | None) -> list[bytes]:
    """The keys of the records that hold a block, in order."""
    if block is None:
        return []
    key = _BLOCK_PREFIX + str(block.number).encode()
    parts = max(-(-len(block.deposits) // DEPOSITS_PER_RECORD_MAX), 1)
    return [key, *(key + b":%d" % part for part in range(1, parts))]


def _block_records(block: WindowBlock) -> list[Record]:
    records = []
    for part, key in enumerate(_block_keys(block)):
        deposits = block.deposits[part * DEPOSITS_PER_RECORD_MAX : (part + 1) * DEPOSITS_PER_RECORD_MAX]
        stored = _StoredBlock(
            block.number,
            block.hash,
            block.parent_hash,
            block.timestamp,
            block.confirmed,
            len(block.deposits),
            [
                _StoredDeposit(
                    deposit.event_id,
                    deposit.txid,
                    checksum_address(deposit.sender),
                    checksum_address(deposit.recipient),
                    str(deposit.amount),
                    _StoredAsset(deposit.asset.symbol, deposit.asset.contract, deposit.asset.decimals),
                )
                for deposit in deposits
            ],
        )
        records.append(Record(Topic.STATE_SYNC, key, msgspec.json.encode(stored)))
    return records


def _read_blocks(values: Mapping[bytes, bytes]) -> list[WindowBlock]:
    parts: dict[tuple[int, int], _StoredBlock] = {}
    for key, value in values.items():
        if key.startswith(_BLOCK_PREFIX):
            place, _, suffix = key.removeprefix(_BLOCK_PREFIX).partition(b":")
            parts[int(place), int(suffix or 0)] = msgspec.json.decode(value, type=_StoredBlock)
    blocks: dict[int, WindowBlock] = {}
    for (number, part), stored in sorted(parts.items()):
        if part == 0:
            blocks[number] = _read_block(stored)
        else:
            whole, rest = blocks[number], _read_block(stored)
            blocks[number] = replace(whole, deposits=whole.deposits + rest.deposits)
        if len(blocks[number].deposits) > stored.deposit_count:
            raise ValueError(f"block {number} has more deposits than it says")
    for (number, part), stored in parts.items():
        if part == 0 and len(blocks[number].deposits) != stored.deposit_count:
            raise ValueError(f"block {number} lacks some of its deposits")
    return list(blocks.values())


def _read_block(stored: _StoredBlock) -> WindowBlock:
    return WindowBlock(
        stored.number,
        stored.hash,
        stored.parent_hash,
        stored.timestamp,
        tuple(
            Deposit(
                each.event_id,
                each.txid,
                parse_address(each.sender),
                parse_address(each.recipient),
                BaseUnits(int(each.amount)),
                TransactionAsset(symbol=each.asset.symbol, contract=each.asset.contract, decimals=each.asset.decimals),
            )
            for each in stored.deposits
        ),
        stored.confirmed,
    )
