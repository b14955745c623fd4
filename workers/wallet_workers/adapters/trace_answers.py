"""What nodes answer about the calls of a block or of one transaction, read into `blocks.Frame`.

- geth's `callTracer`: a tree of calls for each transaction (`debug_traceBlockByHash`, `debug_traceTransaction`).
- OpenEthereum's traces, kept by Erigon, Nethermind, Reth: one flat list, each entry with its place in the tree
  (`trace_block`, `trace_transaction`). A block can only be asked for by number, so every entry's block hash is
  compared.

Both become frames in pre-order. An answer must hold one tree for each transaction that was asked for, in the block's
order where it says so; an empty one is a fault, never "nothing moved". Geth may say of single transactions of a block
that it could not trace them; these are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from wallet_core.blocks import Block, Frame, FrameKind
from wallet_workers.adapters.execution_api import Ask, check_address, present, quantity
from wallet_workers.adapters.json_rpc import Answer, EndpointFault, Fault, RpcAnswer

Frames = Mapping[str, Sequence[Frame]]
"""By transaction hash, each transaction's frames in pre-order."""


class TraceMethod(StrEnum):
    """A way of tracing a whole block."""

    DEBUG = "debug_traceBlockByHash"
    TRACE = "trace_block"

    @property
    def of_transaction(self) -> str:
        """The same way for one transaction."""
        return "debug_traceTransaction" if self is TraceMethod.DEBUG else "trace_transaction"


_TRACER = {"tracer": "callTracer"}


async def block_frames(ask: Ask, method: TraceMethod, block: Block) -> Frames:
    """The frames of the block's transactions, without those that the node said it could not trace."""
    return await (_debug if method is TraceMethod.DEBUG else _trace)(ask, block)


async def transaction_frames(ask: Ask, method: TraceMethod, block: Block, transaction_hash: str) -> Sequence[Frame]:
    """The frames of one of the block's transactions.

    Geth's way does not say of which block they are: whoever asks makes sure that the block is canonical.
    """
    subject = f"trace of transaction {transaction_hash}"
    if method is TraceMethod.DEBUG:
        answered = await ask(method.of_transaction, (transaction_hash, _TRACER), _DEBUG_ONE)
        return _pre_order(present(answered, subject))
    traces = present(await ask(method.of_transaction, (transaction_hash,), _TRACE), subject)
    return _by_transaction(block, traces, subject, [transaction_hash])[transaction_hash]


# --- debug_traceBlockByHash ---------------------------------------------------------------------------------------


class _WireCall(msgspec.Struct, rename={"sender": "from"}, gc=False):
    type: str
    sender: str
    to: str | None = None
    value: str | None = None
    error: str | None = None
    calls: tuple[_WireCall, ...] = ()


class _WireTraced(msgspec.Struct, rename="camel", gc=False):
    result: _WireCall | None = None
    error: str | None = None
    tx_hash: str | None = None
    """Old nodes leave it out."""


async def _debug(ask: Ask, block: Block) -> Frames:
    """Geth's way."""
    subject = f"traces of block {block.header.number} {block.header.hash}"
    answered = await ask(TraceMethod.DEBUG.value, (block.header.hash, _TRACER), _DEBUG)
    traced = present(answered, subject)
    if len(traced) != len(block.transactions):
        raise _inconsistent(f"{len(traced)} {subject}, which has {len(block.transactions)} transactions")
    found: dict[str, Sequence[Frame]] = {}
    for transaction, each in zip(block.transactions, traced, strict=True):
        if each.tx_hash not in (None, transaction.hash):
            raise _inconsistent(f"the {subject} are not in its order")
        if each.result is None and each.error is None:
            raise _inconsistent(f"among the {subject} is one of nothing")
        if each.result is not None:
            found[transaction.hash] = _pre_order(each.result)
    return found


def _pre_order(top: _WireCall) -> Sequence[Frame]:
    frames: list[Frame] = []
    left = [(0, top)]
    while left:
        depth, call = left.pop()
        frames.append(_frame(call.type, depth, call.sender, call.to, call.value, call.error))
        left += [(depth + 1, below) for below in reversed(call.calls)]
    return frames


# --- trace_block ----------------------------------------------------------------------------------------------------


class _WireAction(
    msgspec.Struct, rename={"call_type": "callType", "sender": "from", "refund_address": "refundAddress"}
):
    call_type: str = "call"
    sender: str | None = None
    to: str | None = None
    value: str | None = None
    address: str | None = None
    """Who destroys itself, in favour of `refund_address`."""
    refund_address: str | None = None
    balance: str | None = None


class _WireResult(msgspec.Struct, gc=False):
    address: str | None = None
    """Of a created contract."""


class _WireTrace(msgspec.Struct, rename="camel", gc=False):
    type: str
    action: _WireAction
    block_hash: str
    trace_address: tuple[int, ...]
    """The way down from the top frame: for each level, the number of the call."""
    transaction_hash: str | None = None
    """None for what belongs to no transaction, such as a block's reward."""
    result: _WireResult | None = None
    error: str | None = None


async def _trace(ask: Ask, block: Block) -> Frames:
    """OpenEthereum's way."""
    header = block.header
    subject = f"traces of block {header.number} {header.hash}"
    traces = present(await ask(TraceMethod.TRACE.value, (hex(header.number),), _TRACE), subject)
    return _by_transaction(block, traces, subject, [transaction.hash for transaction in block.transactions])


def _by_transaction(block: Block, traces: Sequence[_WireTrace], subject: str, wanted: Sequence[str]) -> Frames:
    header = block.header
    found: dict[str, list[Frame]] = {transaction_hash: [] for transaction_hash in wanted}
    before: tuple[int, ...] = ()
    for trace in traces:
        if trace.block_hash != header.hash:
            raise EndpointFault(Fault.OTHER_BLOCK, f"{subject} were asked for; it traced block {trace.block_hash}")
        if trace.transaction_hash is None:
            continue
        if trace.transaction_hash not in found:
            raise _inconsistent(f"the {subject} name transaction {trace.transaction_hash}, which was not asked for")
        frames = found[trace.transaction_hash]
        if frames and not (trace.trace_address > before and len(trace.trace_address) <= len(before) + 1):
            raise _inconsistent(f"the {subject} are not in order")
        if bool(frames) == (not trace.trace_address):
            raise _inconsistent(f"the {subject} have not exactly one top frame a transaction")
        before = trace.trace_address
        frames.append(_flat_frame(trace))
    if any(not frames for frames in found.values()):
        raise _inconsistent(f"the {subject} leave out transactions")
    return found


def _flat_frame(trace: _WireTrace) -> Frame:
    depth, action = len(trace.trace_address), trace.action
    match trace.type:
        case "call":
            return _frame(action.call_type, depth, action.sender, action.to, action.value, trace.error)
        case "create":
            created = trace.result.address if trace.result else None
            return _frame("create", depth, action.sender, created, action.value, trace.error)
        case "suicide" | "selfdestruct":
            return _frame("selfdestruct", depth, action.address, action.refund_address, action.balance, trace.error)
        case _:
            raise _inconsistent(f"a trace of the unknown type {trace.type!r}")


# --- both -----------------------------------------------------------------------------------------------------------


def _frame(
    kind: str, depth: int, sender: str | None, recipient: str | None, value: str | None, error: str | None
) -> Frame:
    try:
        known_kind = FrameKind.CREATE if kind == "CREATE2" else FrameKind(kind.upper())
    except ValueError:
        raise _inconsistent(f"a call frame of the unknown kind {kind!r}") from None
    if sender is None:
        raise _inconsistent("a call frame without sender")
    check_address(sender)
    if recipient is not None:
        check_address(recipient)
    value_wei = 0 if value is None else quantity(value, "value")
    return Frame(known_kind, depth, sender, recipient, value_wei, failed=error is not None)


def _inconsistent(text: str) -> EndpointFault:
    return EndpointFault(Fault.INCONSISTENT, text)


_DEBUG: Answer[tuple[_WireTraced, ...]] = msgspec.json.Decoder(RpcAnswer[tuple[_WireTraced, ...]])
_DEBUG_ONE: Answer[_WireCall] = msgspec.json.Decoder(RpcAnswer[_WireCall])
_TRACE: Answer[tuple[_WireTrace, ...]] = msgspec.json.Decoder(RpcAnswer[tuple[_WireTrace, ...]])
