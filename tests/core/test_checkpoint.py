"""What sync keeps in the state topic: written as differences, read back as the same state or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address
from wallet_core.amounts import BaseUnits
from wallet_core.chain import BlockRef, Move, Window, WindowBlock
from wallet_core.checkpoint import (
    CHECKPOINT_KEY,
    IDENTITY_KEY,
    Identity,
    SyncState,
    after_move,
    check_identity,
    identity_record,
    read_identity,
    read_state,
    state_records,
    with_settings,
)
from wallet_core.coverage import BUCKET_BLOCKS, Bucket, Coverage, bucket_number, digest_of, read_buckets
from wallet_core.deposits import Announcement, Deposit, Status
from wallet_core.errors import CheckpointCorrupt, CheckpointLost, SettingsSuperseded, TopicsOfAnotherWallet
from wallet_core.messages import Record, Topic, TransactionAsset
from wallet_core.orders import OrderBook, OrderState, OrderStatus
from wallet_core.stored_blocks import DEPOSITS_PER_RECORD_MAX

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
MINE = Identity("wallets", "mainnet", 1, "0x" + "d4" * 32, "5c" * 20)


def deposit(n: int = 1, amount: int = 10**18) -> Deposit:
    return Deposit(f"{n:064x}", f"0x{n:064x}", Address(b"\x01" * 20), Address(b"\xaa" * 20), BaseUnits(amount), ETH)


def window(first: int, *hashes: str) -> Window:
    """A base with the first hash at block `first`, and a block for each other one."""
    base = parent = BlockRef(first, hashes[0])
    blocks = []
    for block_hash in hashes[1:]:
        block = WindowBlock(parent.number + 1, block_hash, parent.hash, 12 * parent.number, (deposit(parent.number),))
        blocks.append(block)
        parent = block.ref
    return Window(base, tuple(blocks))


def fold(values: dict[bytes, bytes], records: list[Record]) -> dict[bytes, bytes]:
    """What a compacted topic holds after some more records."""
    for record in records:
        assert record.topic is Topic.STATE_SYNC
        if record.value is None:
            values.pop(record.key, None)
        else:
            values[record.key] = record.value
    return values


def stored(state: SyncState) -> dict[bytes, bytes]:
    return fold({}, state_records(None, state))


STATE = SyncState(window(100, "a", "b", "c", "d"), 7, 3, "cafe", {"ETH": 90})

deposits = st.builds(
    Deposit,
    event_id=st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}"),
    txid=st.none() | st.integers(0, 2**256 - 1).map(lambda n: f"0x{n:064x}"),
    sender=st.none() | st.binary(min_size=20, max_size=20).map(Address),
    recipient=st.binary(min_size=20, max_size=20).map(Address),
    amount=st.integers(0, 2**256 - 1).map(BaseUnits),
    asset=st.builds(
        TransactionAsset,
        symbol=st.text(max_size=8),
        contract=st.none() | st.just("0x" + "11" * 20),
        decimals=st.integers(0, 77),
    ),
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Any window near block 100, so that the windows of a history overlap."""
    base = parent = BlockRef(draw(st.integers(95, 105)), draw(st.sampled_from("xy")))
    blocks = []
    for _ in range(draw(st.integers(0, 6))):
        block = WindowBlock(
            parent.number + 1,
            draw(st.sampled_from("xyz")),
            parent.hash,
            draw(st.integers(0, 2**40)),
            tuple(draw(st.lists(deposits, max_size=2))),
            draw(st.booleans()),
        )
        blocks.append(block)
        parent = block.ref
    return Window(base, tuple(blocks))


books = st.builds(
    lambda position, orders: OrderBook(position, tuple(sorted(orders, key=lambda order: order.offset))),
    st.integers(0, 2**53),
    st.lists(
        st.builds(
            OrderState,
            id=st.sampled_from(["a", "b", "offset-7"]),
            type=st.sampled_from(["rescan", "rewind", "unknown"]),
            offset=st.integers(0, 9),
            status=st.sampled_from(list(OrderStatus)),
            message=st.text(max_size=20),
            published=st.integers(0, 2**53),
            next_block=st.integers(0, 2**53),
            parent_hash=st.none() | st.just("0x" + "ab" * 32),
        ),
        max_size=3,
        unique_by=(lambda order: order.id, lambda order: order.offset),
    ),
)


@st.composite
def covered_windows(draw: st.DrawFn) -> tuple[Window, Coverage]:
    """Windows around the end of a bucket, with what is covered up to their bases."""
    lowest = BUCKET_BLOCKS - 100
    drawn = draw(windows())
    base = BlockRef(drawn.base.number + lowest, drawn.base.hash)
    moved = Window(base, tuple(replace(block, number=block.number + lowest) for block in drawn.blocks))
    first = max(base.number - draw(st.integers(0, 9)), bucket_number(base.number) * BUCKET_BLOCKS)
    newest = Bucket(first, base.number, draw(st.sampled_from(["aa" * 32, "bb" * 32])), draw(st.booleans()))
    return moved, Coverage(draw(st.none() | st.just(newest)))


states = st.builds(
    lambda covered, **fields: SyncState(window=covered[0], coverage=covered[1], **fields),
    covered=covered_windows(),
    sequence=st.integers(0, 2**63),
    generation=st.integers(0, 2**31),
    settings_hash=st.text("0123456789abcdef", max_size=16),
    asset_first_blocks=st.dictionaries(st.text(max_size=8), st.integers(0, 2**53), max_size=3),
    orders=books,
    replay_to=st.none() | st.integers(0, 2**53),
)


# --- writing and reading -------------------------------------------------------------------------------------------


@given(st.lists(states, min_size=1, max_size=6))
def test_the_topic_holds_the_last_state_after_any_history(history: list[SyncState]) -> None:
    """Whatever a leader did, the next one reads exactly what it left."""
    before, values = None, fold({}, [identity_record(MINE)])
    for after in history:
        fold(values, state_records(before, after))
        assert read_state(values) == after
        before = after
    assert read_identity(values) == MINE
    last = history[-1]
    covered = read_buckets(values)
    assert all(bucket.last <= last.window.base.number for bucket in covered), "records of what was rewound are left"
    expected = 2 + len(last.window.blocks) + len(last.orders.orders) + len(covered)
    assert len(values) == expected, "keys are left behind"


@given(states)
def test_nothing_is_written_where_nothing_changed(state: SyncState) -> None:
    """A restarted leader that finds all as it left it appends nothing."""
    assert state_records(state, replace(state)) == []


def test_only_the_keys_that_changed_are_written() -> None:
    """An append costs what changed, not what the window holds."""
    longer = replace(STATE, window=window(100, "a", "b", "c", "d", "e"), sequence=8)
    assert [record.key for record in state_records(STATE, longer)] == [b"block:104", CHECKPOINT_KEY]
    settled = replace(STATE, window=Window(BlockRef(102, "c"), STATE.window.blocks[2:]))
    records = state_records(STATE, settled)
    assert [(record.key, record.value is None) for record in records] == [
        (b"block:101", True),
        (b"block:102", True),
        (CHECKPOINT_KEY, False),
    ]
    confirmed = replace(STATE.window.blocks[0], confirmed=True)
    judged = replace(STATE, window=Window(STATE.window.base, (confirmed, *STATE.window.blocks[1:])))
    assert [record.key for record in state_records(STATE, judged)] == [b"block:101", CHECKPOINT_KEY]


def test_a_replaced_block_is_overwritten() -> None:
    """After a fork the key of a number holds the new branch's block."""
    other = replace(STATE, window=window(100, "a", "b", "C"))
    records = state_records(STATE, other)
    assert [(record.key, record.value is None) for record in records] == [
        (b"block:102", False),
        (b"block:103", True),
        (CHECKPOINT_KEY, False),
    ]


def test_a_block_full_of_deposits_takes_several_records() -> None:
    """No record outgrows what a broker takes; together they are read back, and all go when the block settles."""
    full = replace(STATE.window.blocks[-1], deposits=(deposit(),) * (2 * DEPOSITS_PER_RECORD_MAX + 1))
    state = replace(STATE, window=Window(STATE.window.base, (*STATE.window.blocks[:-1], full)))
    records = state_records(STATE, state)
    number = str(full.number).encode()
    assert [record.key for record in records[:-1]] == [b"block:" + number + part for part in (b"", b":1", b":2")]
    assert max(len(record.value or b"") for record in records) < 500_000
    values = stored(state)
    assert read_state(values) == state
    del values[b"block:" + number + b":1"]
    with pytest.raises(CheckpointCorrupt, match="has 1001 deposits instead of 2001"):
        read_state(values)
    assert [record.key for record in state_records(state, STATE) if record.value is None] == [
        b"block:" + number + part for part in (b":1", b":2")
    ]


# --- what makes no sense -------------------------------------------------------------------------------------------


def test_no_checkpoint_is_a_lost_one() -> None:
    """The leader never begins anew by itself, whatever else the topic holds."""
    for values in (
        {},
        fold({}, [identity_record(MINE)]),
        {k: v for k, v in stored(STATE).items() if k != CHECKPOINT_KEY},
    ):
        with pytest.raises(CheckpointLost, match="backup"):
            read_state(values)


def _changed(key: bytes, **fields: object) -> Callable[[dict[bytes, bytes]], None]:
    def change(values: dict[bytes, bytes]) -> None:
        values[key] = json.dumps(json.loads(values[key]) | fields).encode()

    return change


def _deposit_changed(**fields: object) -> Callable[[dict[bytes, bytes]], None]:
    def change(values: dict[bytes, bytes]) -> None:
        block = json.loads(values[b"block:102"])
        block["deposits"][0] |= fields
        values[b"block:102"] = json.dumps(block).encode()

    return change


def _without(key: bytes) -> Callable[[dict[bytes, bytes]], None]:
    def change(values: dict[bytes, bytes]) -> None:
        del values[key]

    return change


def _with(key: bytes, value: bytes) -> Callable[[dict[bytes, bytes]], None]:
    def change(values: dict[bytes, bytes]) -> None:
        values[key] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_without(b"block:101"), id="the oldest block is missing"),
        pytest.param(_without(b"block:102"), id="a block in the middle is missing"),
        pytest.param(_without(b"block:103"), id="the newest block is missing"),
        pytest.param(_with(b"block:104", stored(STATE)[b"block:103"]), id="a block is there twice"),
        pytest.param(_with(b"block:102", b"{}"), id="a block without fields"),
        pytest.param(_with(b"block:102", b"\xff"), id="a block that is no JSON"),
        pytest.param(_with(CHECKPOINT_KEY, b"null"), id="a checkpoint that is null"),
        pytest.param(_changed(b"block:102", parent_hash="z"), id="a block on another branch"),
        pytest.param(_changed(b"block:102", confirmed="yes"), id="a block of another type"),
        pytest.param(_changed(CHECKPOINT_KEY, version=2), id="a version of the future"),
        pytest.param(_changed(CHECKPOINT_KEY, base={"number": 99, "hash": "a"}), id="another base"),
        pytest.param(_changed(CHECKPOINT_KEY, tip={"number": 103, "hash": "z"}), id="another tip"),
        pytest.param(_changed(CHECKPOINT_KEY, sequence="7"), id="a sequence that is no number"),
        pytest.param(_deposit_changed(amount="1.5"), id="an amount that is no integer"),
        pytest.param(
            _deposit_changed(to="0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAee"), id="a recipient with a wrong checksum"
        ),
    ],
)
def test_what_contradicts_itself_is_corrupt(damage: Callable[[dict[bytes, bytes]], None]) -> None:
    """Guessing here could credit twice: the leader halts, and the message names the topic."""
    values = stored(STATE)
    damage(values)
    with pytest.raises(CheckpointCorrupt, match=r"^state\.sync"):
        read_state(values)


def test_fields_of_a_later_release_are_passed_over() -> None:
    """A newer leader may have written more into the same version."""
    values = stored(STATE)
    _changed(CHECKPOINT_KEY, more=1)(values)
    _changed(b"block:102", more=1)(values)
    assert read_state(values) == STATE


# --- identity ------------------------------------------------------------------------------------------------------


def test_a_topic_without_an_identity_belongs_to_nobody() -> None:
    """Only bootstrap, which sees the other topics too, decides what that means."""
    assert read_identity(stored(STATE)) is None


def test_an_identity_that_cannot_be_read_is_corrupt() -> None:
    """It is not taken for nobody's."""
    with pytest.raises(CheckpointCorrupt, match="identity"):
        read_identity({IDENTITY_KEY: b'{"namespace": "wallets"}'})


def test_my_own_identity_passes() -> None:
    """A worker names the fields that it knows, and no more."""
    check_identity(MINE, namespace="wallets", name="mainnet", chain_id=1, genesis_hash=MINE.genesis_hash)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("namespace", "other", "namespace wallets (here: other)"),
        ("name", "goerli", "name mainnet (here: goerli)"),
        ("chain_id", 5, "chain_id 1 (here: 5)"),
        ("genesis_hash", "0xbf", f"genesis_hash {MINE.genesis_hash} (here: 0xbf)"),
        ("fingerprint", "ab", f"fingerprint {MINE.fingerprint} (here: ab)"),
    ],
)
def test_another_wallets_topic_is_refused_with_the_difference(field: str, value: object, told: str) -> None:
    """The person who mends it sees what differs, and only that."""
    expected = {"namespace": "wallets", "name": "mainnet", "chain_id": 1} | {field: value}
    with pytest.raises(TopicsOfAnotherWallet) as raised:
        check_identity(MINE, **expected)
    assert str(raised.value) == f"the topics belong to a wallet of {told}; give this wallet a topicPrefix of its own"


# --- settings ------------------------------------------------------------------------------------------------------


def test_a_new_asset_starts_at_the_next_block() -> None:
    """Blocks that were scanned without it are not scanned again; an asset that stays keeps its first block."""
    state = with_settings(STATE, 4, "beef", ["ETH", "USDT"], None)
    assert (state.generation, state.settings_hash) == (4, "beef")
    assert state.asset_first_blocks == {"ETH": 90, "USDT": 104}
    assert (state.window, state.sequence) == (STATE.window, STATE.sequence)


def test_an_asset_that_was_removed_is_forgotten() -> None:
    """When it comes back it starts at the block after that, not where it once began."""
    without = with_settings(STATE, 4, "beef", ["USDT"], None)
    assert without.asset_first_blocks == {"USDT": 104}
    assert with_settings(without, 5, "cafe", ["ETH"], None).asset_first_blocks == {"ETH": 104}


def test_the_same_settings_change_nothing() -> None:
    """A restart of the same worker writes nothing."""
    assert with_settings(STATE, 3, "cafe", ["ETH"], None) == STATE


def test_older_settings_never_lead() -> None:
    """During a rollout the old replica cannot undo what the new one wrote."""
    with pytest.raises(SettingsSuperseded, match=r"generation 3.* has 2"):
        with_settings(STATE, 2, "cafe", ["ETH"], None)


# --- moves ---------------------------------------------------------------------------------------------------------


def test_events_are_numbered_on_from_the_states_sequence() -> None:
    """Later is always larger, over all addresses, and the state keeps the last number."""
    said = [Announcement(Status.CONFIRMED, deposit(n), 101, "0x" + "0b" * 32, 1, 3) for n in (1, 2, 3)]
    state, events = after_move(STATE, Move(window(100, "a"), tuple(said)), 1, "/wallets/mainnet")
    assert [json.loads(event.value or b"")["sequence"] for event in events] == [8, 9, 10]
    assert (state.sequence, state.window) == (10, window(100, "a"))
    assert (state.generation, state.asset_first_blocks) == (STATE.generation, STATE.asset_first_blocks)


def test_a_move_that_says_nothing_keeps_the_sequence() -> None:
    """Gaps in the sequence would look like lost events."""
    state, events = after_move(STATE, Move(window(103, "d"), ()), 1, "/wallets/mainnet")
    assert (state.sequence, events) == (7, [])


# --- coverage ------------------------------------------------------------------------------------------------------


def test_what_settles_is_covered_by_the_step_that_settles_it() -> None:
    """Blocks of the window and blocks that join and settle at once, each once, in the order of the chain."""
    state = SyncState(window(100, "a", "b", "c"))
    longer = window(102, "c", "d")
    move = Move(Window(BlockRef(104, "e"), ()), (), (longer.blocks[0].ref, BlockRef(104, "e")))
    after, _ = after_move(state, move, 1, "/wallets/mainnet")
    assert after.coverage.newest == Bucket(101, 104, digest_of(["b", "c", "d", "e"]), begins=True)
    values = fold(stored(state), state_records(state, after))
    assert read_buckets(values) == (after.coverage.newest,)
    assert read_state(values) == after


def test_a_roll_back_and_a_new_tip_cover_nothing() -> None:
    """Only what leaves the window for good counts."""
    state = replace(STATE, coverage=Coverage(Bucket(90, 100, "ab" * 32)))
    for moved in (Window(STATE.window.base, STATE.window.blocks[:1]), window(100, "a", "b", "c", "d", "e")):
        joined = tuple(block.ref for block in moved.blocks[3:])
        after, _ = after_move(state, Move(moved, (), joined), 1, "/wallets/mainnet")
        assert after.coverage == state.coverage
        assert not [record for record in state_records(state, after) if record.key.startswith(b"covered:")]


def test_a_checkpoint_of_an_older_release_is_covered_from_its_next_settled_block_on() -> None:
    """It has no record, or one that ends below its base: a record that leaves blocks out would be a false proof."""
    assert read_state(stored(STATE)).coverage == Coverage()
    values = stored(replace(STATE, coverage=Coverage(Bucket(90, 100, "ab" * 32))))
    _changed(b"covered:0", last=99)(values)
    assert read_state(values).coverage == Coverage()
    values[b"covered:0"] = b"{}"
    with pytest.raises(CheckpointCorrupt, match=r"^state\.sync"):
        read_state(values)
