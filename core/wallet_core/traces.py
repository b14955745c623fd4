"""ETH that moves inside contracts: which call frames of a transaction move some, and each one's place among them.

A node tells of frames by tracing, in one of two ways (`debug_traceBlockByHash`, `trace_block`); adapters bring both
into `blocks.Frame`. The rules here make the same movements, with the same places, of either:

- CALL, CREATE, CREATE2 and SELFDESTRUCT move ETH. DELEGATECALL, CALLCODE and STATICCALL never do: geth shows the
  calling frame's value at a DELEGATECALL, and a CALLCODE pays its own contract.
- The value is more than 0.
- Neither the frame nor any above it failed: a failure undoes everything below. That a call *below* it failed says
  nothing, nor that one beside it did.
- A self-destruct in favour of the contract itself moves nothing. Which contract that is follows from the frame that
  made it, and not from what the node says: revm (Reth, anvil) then names the contract's caller.
- What goes to a precompiled contract (an address below `PRECOMPILES_END`) is left out: some nodes leave these calls
  out of `trace_block`, so counting them would give one transfer two places. Nobody has a key to these addresses.

The **ordinal** counts these frames in pre-order from 0, without the top frame. The top frame is the transaction itself,
a deposit of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wallet_core.blocks import Frame, FrameKind, Transaction
from wallet_core.errors import NodeInconsistent

PRECOMPILES_END = 1 << 16
"""Above every precompiled contract of today's chains; the highest on Ethereum is 0x100 (EIP-7951)."""
_RUNNING_ANOTHERS_CODE = frozenset({FrameKind.DELEGATECALL, FrameKind.CALLCODE})
_MOVING = frozenset({FrameKind.CALL, FrameKind.CREATE, FrameKind.SELFDESTRUCT})


@dataclass(frozen=True)
class Movement:
    """ETH that one frame below a transaction's own call moved."""

    transaction_hash: str
    ordinal: int
    """Its place, from 0, among the transaction's movements in pre-order."""
    sender: str
    """The contract that paid, 0x and 40 lower-case hex digits."""
    recipient: str
    """Likewise, who was paid."""
    value_wei: int


def movements(transaction: Transaction, frames: Sequence[Frame]) -> tuple[Movement, ...]:
    """What the frames below the transaction's own call moved, in pre-order.

    `frames` holds all of the transaction's frames in pre-order. Raises NodeInconsistent where they are not one tree, or
    not this transaction's.
    """
    _check_top(transaction, frames)
    if frames[0].failed:
        return ()
    found: list[Movement] = []
    contexts = [_context(frames[0])]  # of the frame that we are in and those above it
    undone_depth: int | None = None  # of the failed frame that we are in
    for frame in frames[1:]:
        if not 1 <= frame.depth <= len(contexts):
            raise NodeInconsistent(f"the frames of transaction {transaction.hash} are not one tree")
        del contexts[frame.depth :]
        sender = contexts[-1] if frame.kind is FrameKind.SELFDESTRUCT else frame.sender
        contexts.append(_context(frame))
        if undone_depth is not None and frame.depth <= undone_depth:
            undone_depth = None
        if undone_depth is None and frame.failed:
            undone_depth = frame.depth
        if undone_depth is None and _moves(frame, sender):
            if frame.recipient is None or sender is None:
                raise NodeInconsistent(f"a frame of transaction {transaction.hash} moves ETH from or to nobody")
            if int(frame.recipient, 16) >= PRECOMPILES_END:
                found.append(Movement(transaction.hash, len(found), sender, frame.recipient, frame.value_wei))
    return tuple(found)


def _context(frame: Frame) -> str | None:
    """Whose storage and balance the frame's code works on."""
    return frame.sender if frame.kind in _RUNNING_ANOTHERS_CODE else frame.recipient


def _moves(frame: Frame, sender: str | None) -> bool:
    if frame.kind not in _MOVING or frame.value_wei <= 0:
        return False
    return frame.kind is not FrameKind.SELFDESTRUCT or frame.recipient != sender


def _check_top(transaction: Transaction, frames: Sequence[Frame]) -> None:
    if not frames or frames[0].depth != 0:
        raise NodeInconsistent(f"transaction {transaction.hash} has no top frame")
    top = frames[0]
    try:
        value_wei = int(transaction.value, 16)
    except ValueError as error:
        raise NodeInconsistent(f"the amount of transaction {transaction.hash} cannot be read: {error}") from None
    is_creation = transaction.to is None
    fits = (
        top.kind is (FrameKind.CREATE if is_creation else FrameKind.CALL)
        and top.sender == transaction.from_.lower()
        and top.value_wei == value_wei
        and (transaction.to is None or top.recipient == transaction.to.lower())
    )
    if not fits:
        raise NodeInconsistent(f"the top frame is not that of transaction {transaction.hash}")
