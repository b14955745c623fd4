"""What was published, folded; what a rewind takes back; and what is new of a move over blocks spoken of before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address
from wallet_core.amounts import BaseUnits
from wallet_core.chain import BlockRef, Move, Window
from wallet_core.checkpoint import SyncState
from wallet_core.deposits import Announcement, Deposit, Status
from wallet_core.errors import OrderRefused
from wallet_core.messages import TransactionAsset, TransactionEvent
from wallet_core.orders import OrderBook, OrderState, OrderStatus
from wallet_core.published import Published, PublishedRecord
from wallet_core.rewinds import (
    check_common,
    check_confirmed,
    check_target,
    go_back,
    gone,
    is_replayed,
    replay,
    take_back,
)

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
ADDRESS = Address(b"\x11" * 20)


def block_hash(branch: str, number: int) -> str:
    return "0x" + branch * 60 + f"{number:04x}"


def event(sequence: int, transfer: int, status: str, number: int, branch: str = "a") -> TransactionEvent:
    return TransactionEvent(
        event_id=f"{transfer:064x}",
        sequence=sequence,
        type="deposit",
        status=status,
        txid=f"0x{transfer:064x}",
        value="1",
        amount="1000000000000000000",
        to="0x" + "11" * 20,
        from_="0x" + "22" * 20,
        asset=ETH,
        chain_id=1,
        block_number=number,
        block_hash=block_hash(branch, number),
        timestamp=12 * number,
        confirmations=3,
    )


def published(*events: TransactionEvent, whole_above: int | None = 0) -> Published:
    folded = Published(whole_above=whole_above)
    for each in events:
        assert folded.add(record(each.model_dump_json(by_alias=True).encode()))
    return folded


def record(value: bytes | None, timestamp_ms: int = 0) -> PublishedRecord:
    return PublishedRecord(0, 0, timestamp_ms, value)


def announcement(transfer: int, status: Status, number: int, branch: str = "a") -> Announcement:
    deposit = Deposit(f"{transfer:064x}", f"0x{transfer:064x}", ADDRESS, ADDRESS, BaseUnits(1), ETH)
    return Announcement(status, deposit, number, block_hash(branch, number), 0, 1)


def move(*announcements: Announcement, joined: tuple[tuple[int, str], ...] = ()) -> Move:
    refs = tuple(BlockRef(number, block_hash(branch, number)) for number, branch in joined)
    return Move(Window(BlockRef(0, "0x")), announcements, refs)


# --- what was published --------------------------------------------------------------------------------------------

STORY = [
    event(1, 1, "detected", 5),
    event(2, 1, "orphaned", 5),
    event(3, 2, "confirmed", 6),
    event(4, 1, "detected", 7),
]


@given(st.permutations(STORY))
def test_the_last_event_is_the_one_with_the_largest_sequence(story: list[TransactionEvent]) -> None:
    """In whatever order they come: the topic is read while new ones are written."""
    folded = published(*story, whole_above=5)
    assert (folded.sequence, len(folded), folded.newest_live_block) == (4, 2, 7)
    last = folded.last(f"{1:064x}")
    assert last is not None
    assert (last.status, last.block_number, last.sequence) == ("detected", 7, 4)
    assert folded.live_blocks() == [6, 7]
    assert [said.event for said in folded.live_in(7)] == [STORY[3]]
    assert folded.live_refs() == [BlockRef(number, block_hash("a", number)) for number in (6, 7)]
    assert folded.live_refs(6) == [BlockRef(6, block_hash("a", 6))]


def test_what_is_no_event_of_ours_is_not_believed() -> None:
    """Whoever wrote it: it is told from events, changes nothing, and is in nobody's way."""
    folded = Published()
    for value in (None, b"{}", b"garbage", b"\xff", b"[]", b'{"type": "deposit", "sequence": 7}', b'{"type": 7}'):
        assert not folded.add(record(value, 5))
    assert (folded.sequence, len(folded), folded.newest_timestamp_ms) == (0, 0, 0)


def test_a_record_of_another_type_is_somebody_else_s() -> None:
    """A sweep's events come on the same topic: they are right there, and none of a deposit's."""
    folded = Published()
    assert folded.add(record(b'{"type": "sweep", "sequence": 7}', 5))
    assert (folded.sequence, len(folded)) == (0, 0)


# --- going back ----------------------------------------------------------------------------------------------------


def test_targets_that_would_leave_blocks_out_are_refused() -> None:
    """Above the base, above what the node has settled, and above what is known to be common."""
    check_target(10, 10, 10)
    check_target(10, None, 10)
    check_common(10, 10)
    for to, base, settled in ((11, 10, 12), (10, 12, 9), (10, None, 9)):
        with pytest.raises(OrderRefused):
            check_target(to, base, settled)
    with pytest.raises(OrderRefused, match=r"above block 9, .* rewind to that one or below"):
        check_common(10, 9)


def test_a_target_that_would_settle_what_is_not_confirmed_is_refused() -> None:
    """After a lost checkpoint only the published events tell what was confirmed."""
    check_confirmed(10, None)
    check_confirmed(10, 11)
    with pytest.raises(OrderRefused, match="rewind to block 9 or below"):
        check_confirmed(10, 10)


def test_what_is_gone_is_taken_back_newest_first() -> None:
    """Everything else of the event stays as it was said; what the node cannot judge yet is left alone."""
    said = published(
        event(1, 1, "confirmed", 5), event(2, 2, "detected", 6), event(3, 3, "detected", 6), event(4, 4, "detected", 9)
    )
    found = gone(said, {5: block_hash("a", 5), 6: block_hash("b", 6)})
    events = take_back(found, 40)
    assert [(each.event_id[-1], each.status, each.sequence, each.confirmations) for each in events] == [
        ("3", "orphaned", 41, 0),
        ("2", "orphaned", 42, 0),
    ]
    assert events[0].model_dump(exclude={"status", "sequence", "confirmations"}) == event(
        3, 3, "detected", 6
    ).model_dump(exclude={"status", "sequence", "confirmations"})


def test_the_state_after_going_back() -> None:
    """An empty window; a sequence above everything said; and rescans that read above the block read it again."""
    order = OrderState("w", "rewind", 1, OrderStatus.RUNNING, from_block=4, published=2)
    far = OrderState("r", "rescan", 0, OrderStatus.RUNNING, from_block=1, to_block=9, next_block=8, parent_hash="0x8")
    near = OrderState("s", "rescan", 2, OrderStatus.RUNNING, from_block=1, to_block=9, next_block=3, parent_hash="0x2")
    state = SyncState(Window(BlockRef(6, "0x6")), sequence=1, orders=OrderBook(3, (far, order, near)))
    base = BlockRef(4, "0x4")
    after = go_back(state, order, base, published(event(9, 1, "confirmed", 8)))
    assert (after.window, after.sequence, after.replay_to) == (Window(base), 9, 8)
    again, done, same = after.orders.orders
    assert (again.next_block, again.parent_hash) == (5, None)
    assert (done.status, done.published) == (OrderStatus.DONE, 2)
    assert same == replace(near, parent_hash=None)  # the block below may be another one now
    assert not is_replayed(after)
    assert is_replayed(SyncState(Window(BlockRef(8, "0x8")), replay_to=8))


def test_every_asset_counts_from_the_block_after() -> None:
    """A transfer that was in a block above its asset's first one may be in a lower block of the new branch."""
    order = OrderState("w", "rewind", 1, OrderStatus.RUNNING, from_block=4)
    state = SyncState(Window(BlockRef(6, "0x6")), asset_first_blocks={"native": 2, "0xt": 7})
    after = go_back(state, order, BlockRef(4, "0x4"), Published(whole_above=0))
    assert after.asset_first_blocks == {"native": 2, "0xt": 5}


# --- following again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "said", "is_new"),
    [
        ("detected", Status.DETECTED, False),
        ("detected", Status.CONFIRMED, True),
        ("confirmed", Status.DETECTED, False),
        ("confirmed", Status.CONFIRMED, False),
        ("orphaned", Status.DETECTED, True),
        ("orphaned", Status.CONFIRMED, True),
        ("confirmed", Status.ORPHANED, True),
        ("detected", Status.ORPHANED, True),
    ],
)
def test_what_is_said_again_of_the_same_block(last: str, said: Status, *, is_new: bool) -> None:
    """Only what says more, or less, than the last event."""
    new = replay(published(event(1, 1, last, 5)), move(announcement(1, said, 5)))
    assert bool(new.move.announcements) is is_new


def test_what_was_taken_back_or_never_told_is_told() -> None:
    """There is nothing to take back then."""
    said = (announcement(1, Status.DETECTED, 6), announcement(2, Status.DETECTED, 6))
    before = published(event(1, 1, "confirmed", 5), event(2, 1, "orphaned", 5))
    new = replay(before, move(*said, joined=((6, "a"),)))
    assert new.move.announcements == said
    assert new.gone == []


def test_a_transfer_that_is_in_another_block_now_is_taken_back_first() -> None:
    """Its old block was above the node's tip and nobody asked for it; the new one has another number."""
    said = announcement(1, Status.DETECTED, 6, "b")
    new = replay(published(event(1, 1, "confirmed", 8), event(2, 2, "confirmed", 8)), move(said, joined=((6, "b"),)))
    assert [each.sequence for each in new.gone] == [1]
    assert new.move.announcements == (said,)


def test_a_block_that_joins_takes_back_what_was_said_of_another_of_its_number() -> None:
    """The same transfer in the new block is then told anew."""
    said = published(event(1, 1, "confirmed", 5), event(2, 2, "confirmed", 5), event(3, 3, "confirmed", 6))
    new = replay(said, move(announcement(1, Status.DETECTED, 5, "b"), joined=((5, "b"), (6, "a"))))
    assert [each.sequence for each in new.gone] == [2, 1]
    assert len(new.move.announcements) == 1
