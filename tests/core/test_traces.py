"""Which call frames move ETH, and the place of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.blocks import Frame, FrameKind, Transaction
from wallet_core.errors import NodeInconsistent
from wallet_core.traces import PRECOMPILES_END, movements

SENDER, CONTRACT, OTHER, PAID = ("0x" + pair * 20 for pair in ("5e", "c0", "07", "a1"))
TRANSACTION = Transaction(hash="0x" + "7a" * 32, from_=SENDER, to=CONTRACT, value="0x9")
TOP = Frame(FrameKind.CALL, 0, SENDER, CONTRACT, 9, failed=False)


def frame(
    kind: FrameKind = FrameKind.CALL,
    depth: int = 1,
    sender: str = CONTRACT,
    recipient: str | None = PAID,
    value_wei: int = 1,
    *,
    failed: bool = False,
) -> Frame:
    return Frame(kind, depth, sender, recipient, value_wei, failed)


def places(*frames: Frame) -> list[tuple[int, str, str, int]]:
    found = movements(TRANSACTION, (TOP, *frames))
    assert all(each.transaction_hash == TRANSACTION.hash for each in found)
    return [(each.ordinal, each.sender, each.recipient, each.value_wei) for each in found]


# --- the rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FrameKind.CALL, FrameKind.CREATE, FrameKind.SELFDESTRUCT])
def test_what_moves_eth(kind: FrameKind) -> None:
    """Calls, creations and self-destructs with a value."""
    assert places(frame(kind)) == [(0, CONTRACT, PAID, 1)]
    assert places(frame(kind, value_wei=0)) == []


@pytest.mark.parametrize("kind", [FrameKind.DELEGATECALL, FrameKind.CALLCODE, FrameKind.STATICCALL])
def test_what_never_moves_eth(kind: FrameKind) -> None:
    """Whatever value a node shows at it."""
    assert places(frame(kind, value_wei=9)) == []


def test_the_top_frame_has_no_place() -> None:
    """It is the transaction itself."""
    assert places() == []
    assert places(frame()) == [(0, CONTRACT, PAID, 1)]


def test_places_are_in_pre_order_and_skip_what_moves_nothing() -> None:
    """A call comes before those that it makes; neither a call without value nor one that failed takes a place."""
    assert places(
        frame(recipient=OTHER, value_wei=3),
        frame(depth=2, sender=OTHER, value_wei=0),
        frame(depth=2, sender=OTHER, value_wei=2),
        frame(failed=True),
        frame(value_wei=4),
    ) == [(0, CONTRACT, OTHER, 3), (1, OTHER, PAID, 2), (2, CONTRACT, PAID, 4)]


def test_a_failure_undoes_all_below_and_nothing_beside_or_above() -> None:
    """A good call under a failed one is undone at any depth; the failed one's caller and sisters are not."""
    assert places(
        frame(recipient=OTHER, value_wei=1),
        frame(depth=2, sender=OTHER, failed=True),
        frame(depth=3, sender=PAID),
        frame(depth=4, sender=PAID),
        frame(depth=3, sender=PAID),
        frame(depth=2, sender=OTHER, value_wei=2),
        frame(value_wei=3),
    ) == [(0, CONTRACT, OTHER, 1), (1, OTHER, PAID, 2), (2, CONTRACT, PAID, 3)]


def test_a_failed_transaction_moves_nothing() -> None:
    """The top frame is above all others."""
    failed = Frame(TOP.kind, 0, TOP.sender, TOP.recipient, TOP.value_wei, failed=True)
    assert movements(TRANSACTION, (failed, frame())) == ()


def test_a_self_destruct_in_its_own_favour_moves_nothing_whomever_the_node_names() -> None:
    """revm names the caller of such a contract; the frame that made it tells the truth."""
    assert places(frame(FrameKind.SELFDESTRUCT, sender=SENDER, recipient=CONTRACT)) == []
    assert places(frame(FrameKind.SELFDESTRUCT, sender=CONTRACT, recipient=CONTRACT)) == []


@pytest.mark.parametrize("kind", [FrameKind.DELEGATECALL, FrameKind.CALLCODE])
def test_a_self_destruct_in_borrowed_code_destroys_the_borrower(kind: FrameKind) -> None:
    """Code that runs in the caller's place moves the caller's balance."""
    borrowed = frame(kind, recipient=OTHER)
    assert places(borrowed, frame(FrameKind.SELFDESTRUCT, 2, OTHER, PAID, 5)) == [(0, CONTRACT, PAID, 5)]
    assert places(borrowed, frame(FrameKind.SELFDESTRUCT, 2, OTHER, CONTRACT, 5)) == []


def test_payments_to_precompiled_contracts_take_no_place() -> None:
    """Some nodes leave them out of their flat traces."""
    precompiled = frame(recipient=f"0x{PRECOMPILES_END - 1:040x}")
    first = frame(recipient=f"0x{PRECOMPILES_END:040x}")
    assert [place for place, *_ in places(precompiled, first, precompiled, frame())] == [0, 1]


def test_a_creation_is_the_top_frame_of_its_transaction() -> None:
    """It has no recipient in the block; what its code pays has a place."""
    creation = Transaction(hash=TRANSACTION.hash, from_=SENDER, to=None, value="0x9")
    top = Frame(FrameKind.CREATE, 0, SENDER, CONTRACT, 9, failed=False)
    assert [each.sender for each in movements(creation, (top, frame()))] == [CONTRACT]


# --- what cannot be believed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        (),
        (frame(),),
        (frame(depth=0, sender=SENDER, recipient=OTHER, value_wei=9),),
        (frame(depth=0, sender=OTHER, recipient=CONTRACT, value_wei=9),),
        (frame(depth=0, sender=SENDER, recipient=CONTRACT, value_wei=8),),
        (frame(FrameKind.CREATE, 0, SENDER, CONTRACT, 9),),
        (TOP, TOP),
        (TOP, frame(depth=2)),
        (TOP, frame(), frame(depth=3)),
        (TOP, frame(recipient=None)),
    ],
    ids=[
        "none", "no top", "another recipient", "another sender", "another value", "another kind", "two tops",
        "a gap at the top", "a gap below", "paid to nobody",
    ],
)  # fmt: skip
def test_frames_of_something_else_are_not_believed(frames: Sequence[Frame]) -> None:
    """Not the transaction's own top frame, or no tree: never read as "nothing moved"."""
    with pytest.raises(NodeInconsistent, match=TRANSACTION.hash):
        movements(TRANSACTION, frames)


@pytest.mark.parametrize("value", ["ten", "", "0x"])
def test_an_amount_that_cannot_be_read_is_a_contradiction(value: str) -> None:
    """The node's fault, and no end of the process."""
    unreadable = Transaction(hash=TRANSACTION.hash, from_=SENDER, to=CONTRACT, value=value)
    with pytest.raises(NodeInconsistent, match=TRANSACTION.hash):
        movements(unreadable, [Frame(FrameKind.CALL, 0, SENDER, CONTRACT, 9, failed=False)])


# --- against a naive model --------------------------------------------------------------------------------------------


@dataclass
class Tree:
    kind: FrameKind
    sender: str
    recipient: str
    value_wei: int
    failed: bool
    calls: list[Tree] = field(default_factory=list)


ADDRESSES = st.sampled_from([SENDER, CONTRACT, OTHER, PAID, f"0x{4:040x}"])


@st.composite
def calls(draw: st.DrawFn, context: str, depth_left: int = 4) -> list[Tree]:
    found = []
    for _ in range(draw(st.integers(0, 3 if depth_left else 0))):
        kind = draw(st.sampled_from(FrameKind))
        recipient = draw(ADDRESSES)
        tree = Tree(kind, context, recipient, draw(st.integers(0, 2)), draw(st.booleans()))
        if kind is not FrameKind.SELFDESTRUCT:
            borrowed = kind in (FrameKind.DELEGATECALL, FrameKind.CALLCODE)
            tree.calls = draw(calls(context if borrowed else recipient, depth_left - 1))
        found.append(tree)
    return found


def flat(trees: Sequence[Tree], depth: int = 1) -> Iterator[Frame]:
    for tree in trees:
        yield Frame(tree.kind, depth, tree.sender, tree.recipient, tree.value_wei, tree.failed)
        yield from flat(tree.calls, depth + 1)


def paid_by(trees: Sequence[Tree]) -> list[tuple[str, str, int]]:
    """The rules once more, the way one would say them."""
    found = []
    for tree in trees:
        if tree.failed:
            continue
        never = {FrameKind.DELEGATECALL, FrameKind.CALLCODE, FrameKind.STATICCALL}
        to_itself = tree.kind is FrameKind.SELFDESTRUCT and tree.sender == tree.recipient
        if tree.kind not in never and tree.value_wei and not to_itself and int(tree.recipient, 16) >= PRECOMPILES_END:
            found.append((tree.sender, tree.recipient, tree.value_wei))
        found += paid_by(tree.calls)
    return found


@given(calls(CONTRACT))
def test_places_are_those_of_a_naive_walk(trees: list[Tree]) -> None:
    """Whatever the tree: the same movements as by recursion, numbered without a gap."""
    assert places(*flat(trees)) == [(place, *paid) for place, paid in enumerate(paid_by(trees))]


def test_calls_as_deep_as_the_evm_allows_are_no_trouble() -> None:
    """Anybody can put such a transaction into a block."""
    deep = [frame(depth=depth, sender=CONTRACT, recipient=CONTRACT, value_wei=0) for depth in range(1, 1_024)]
    assert places(*deep, frame(depth=1_024)) == [(0, CONTRACT, PAID, 1)]
