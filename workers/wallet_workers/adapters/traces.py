"""Which way of tracing an endpoint has, and the call frames of a block by it.

What is asked and how it is read says `trace_answers.py`. `debug_traceBlockByHash` comes first, for it names the block
by its hash, then `trace_block`.

**Which way an endpoint has** is found out by asking: an error that says that there is no such method leads to the other
way, and if it has neither, the endpoint counts as one without traces for `LOOK_AGAIN_SECONDS`. The way that worked is
asked first from then on. Once one worked here, "no such method" is a fault like any other, for a balancer may have led
to another node: only where it has lasted for `LOST_TRIES_MIN` tries and `LOST_SECONDS_MIN` the way counts as gone.
Other errors say nothing about the method and are faults, be they ever so similar: only exact forms are believed.

**Blocks out of reach.** A node that is no archive can trace only blocks whose state it still has (geth: the newest
128). Its refusal is told from faults by its text, for there is no code for it; a text that is not known here stays a
fault, so the wallet waits and says why. It is not believed of the newest `STATE_KEPT_BLOCKS_MIN` blocks. A block that
no endpoint can trace is `UNTRACEABLE`; the caller counts it.

**Blocks too large.** A trace repeats the input of every call, so a transaction that costs little can make one of many
gigabytes, or of more seconds than the node gives it. Nobody may stop the wallet by a transaction, or hide the others of
its block. So where no way gives the whole block, its transactions are traced one by one. One whose own trace is too
large is left out; so is one that runs out of time `TIMEOUTS_MIN` times, while others of the block do not, or for
`TIMEOUT_SECONDS_MAX`: an overloaded node is waited for. `TRACE_TOO_LARGE` says that some were left out. Geth's way does
not say of which block a transaction's trace is, so the block must be canonical before and after.

**Endpoints that do not answer** and may have traces are waited for, for they may have what the others lack. One that
never showed here that it has any is waited for `TRACES_UNKNOWN_SECONDS_MAX` at most.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wallet_core.blocks import Block, Frame
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.execution_api import Ask
from wallet_workers.adapters.json_rpc import EndpointFault, Fault
from wallet_workers.adapters.trace_answers import Frames, TraceMethod, block_frames, transaction_frames

LOOK_AGAIN_SECONDS = 600.0
"""How long an endpoint counts as one without traces before it is asked again."""
LOST_TRIES_MIN = 3
LOST_SECONDS_MIN = 60.0
"""How often and how long "no such method" must be said by an endpoint whose method worked."""
STATE_KEPT_BLOCKS_MIN = 32
"""Below the tip, every node has the state: geth keeps that of 128 blocks, Nethermind of 64."""
TRACES_UNKNOWN_SECONDS_MAX = 30.0
"""How long an endpoint that never showed traces is waited for, after it was first asked in vain."""
TRANSACTIONS_AT_ONCE_MAX = 4
"""Traced one by one at a time, at one endpoint: each answer may be as large as any."""
TIMEOUTS_MIN = 3
TIMEOUT_SECONDS_MAX = 300.0
"""How often, or where no other transaction of the block is traced how long, one must run out of time."""
TIMED_OUT_HELD_MAX = 10_000
"""Transactions whose time-outs are remembered; then the oldest is forgotten."""
_NO_METHOD_CODES = frozenset({-32601, -32604, -32004})
"""Method not found (JSON-RPC), method not enabled (Besu), method not supported (EIP-1474)."""
_NO_METHOD_TEXT = re.compile(
    r"(debug_trace(BlockByHash|Transaction)|trace_(block|transaction)) (is not (available|supported|enabled|allowed)"
    r"|does not exist)"
    r"|(debug|trace) (api|namespace|module)s? (is|are) (not (available|supported|enabled)|disabled)"
    r"|error -?\d+: (the )?method (is )?not (available|supported|enabled|allowed|found)\.?$",
    re.IGNORECASE,
)
"""What providers say whose plan does not include tracing, and nodes whose namespace is off."""
_NO_STATE_TEXT = re.compile(
    r"missing trie node|historical state (\S+ )?(is )?(not available|unavailable)|state \S+ is not available"
    r"|(no state|state not) available for block|world state (is )?(not available|unavailable)|\bprun(ed|ing)\b",
    re.IGNORECASE,
)
_OUT_OF_TIME_TEXT = re.compile(
    r"execution timeout|request timed out|timeout expired|context deadline exceeded|error -32016: .*timeout",
    re.IGNORECASE,
)
"""Geth by its tracer and by its server, Besu, Erigon, Nethermind."""
_TOO_MUCH_TEXT = re.compile(r"response (is )?too large|response size (is|exceed|should)", re.IGNORECASE)
"""Geth, and providers with a limit of their own."""


@dataclass
class _TimedOut:
    """A transaction whose trace ran out of time."""

    since: float
    times: int = 0


class Tracing:
    """What one endpoint was found to offer."""

    def __init__(self) -> None:
        self._method: TraceMethod | None = None
        """The way that worked last; None while there is none."""
        self._without_since = -math.inf
        self._lost_since: float | None = None
        """Since when the way that worked is said not to be there."""
        self._lost_tries = 0
        self._in_vain_since: float | None = None
        """Since when an endpoint of which nothing is known was asked in vain."""
        self._timed_out: dict[str, _TimedOut] = {}
        self._gate = asyncio.Semaphore(TRANSACTIONS_AT_ONCE_MAX)

    @property
    def found(self) -> str:
        """The method, `none`, or `unknown`."""
        if self._method is not None:
            return self._method.value
        return "unknown" if self._without_since == -math.inf else "none"

    def note_in_vain(self, now_seconds: float) -> None:
        """It was asked and gave no answer."""
        if self._in_vain_since is None:
            self._in_vain_since = now_seconds

    def is_waited_for(self, now_seconds: float) -> bool:
        """Whether it may have the traces that others lack, and is worth waiting for while it does not answer."""
        if self._method is not None:
            return True
        if self._without_since != -math.inf:
            return False
        return self._in_vain_since is None or now_seconds < self._in_vain_since + TRACES_UNKNOWN_SECONDS_MAX

    async def frames(
        self, ask: Ask, block: Block, now_seconds: float, known: dict[str, Sequence[Frame]] | None = None
    ) -> Frames:
        """The frames of a block that has transactions, at that monotonic time.

        `known`: frames of single transactions that any endpoint gave; those found here are added. Raises EndpointFault:
        `UNTRACEABLE` where there is no way, `TRACE_TOO_LARGE` where some transactions could not be traced.
        """
        if self._method is None and now_seconds < self._without_since + LOOK_AGAIN_SECONDS:
            raise EndpointFault(Fault.UNTRACEABLE, "it has no traces")
        known = {} if known is None else known
        lacking: EndpointFault | None = None
        too_much: list[TraceMethod] = []
        for method in sorted(TraceMethod, key=lambda each: each is not self._method):
            try:
                known |= await block_frames(ask, method, block)
            except EndpointFault as fault:
                if _is_too_large(fault):
                    too_much.append(method)
                elif _is_out_of_time(fault):
                    too_much.append(method)
                    break
                elif _NO_STATE_TEXT.search(str(fault)) and fault.fault in (Fault.RPC_ERROR, Fault.ABSENT):
                    await self._believe_out_of_reach(ask, block, fault)
                    self._works(method)
                    raise EndpointFault(
                        Fault.UNTRACEABLE, f"it cannot trace block {block.header.number} any more: {fault}"
                    ) from None
                elif _is_no_method(fault):
                    lacking = fault
                else:
                    raise
            else:
                self._works(method)
                if known.keys() >= {each.hash for each in block.transactions}:
                    return known
                too_much.append(method)
                break
        if too_much:
            return await self._one_by_one(ask, too_much, block, now_seconds, known)
        self._note_lost(lacking, now_seconds)
        raise EndpointFault(Fault.UNTRACEABLE, "it has no traces")

    def _works(self, method: TraceMethod) -> None:
        self._method, self._lost_since, self._lost_tries, self._in_vain_since = method, None, 0, None

    def _note_lost(self, fault: EndpointFault | None, now_seconds: float) -> None:
        """It has no method. Raises the fault where that is not to be believed yet."""
        if self._method is not None and fault is not None:
            if self._lost_since is None:
                self._lost_since = now_seconds
            self._lost_tries += 1
            if self._lost_tries < LOST_TRIES_MIN or now_seconds < self._lost_since + LOST_SECONDS_MIN:
                raise EndpointFault(fault.fault, f"it had traces before: {fault}", fault.rpc_code)
        self._method, self._without_since, self._lost_since, self._lost_tries = None, now_seconds, None, 0

    async def _believe_out_of_reach(self, ask: Ask, block: Block, fault: EndpointFault) -> None:
        """Raises the fault where the block is so young that every node has its state."""
        tip = (await execution_api.head(ask, with_finalized=False)).tip
        if tip.number < block.header.number + STATE_KEPT_BLOCKS_MIN:
            raise EndpointFault(Fault.RPC_ERROR, str(fault), fault.rpc_code)

    # --- one by one ---------------------------------------------------------------------------------------------------

    async def _one_by_one(
        self,
        ask: Ask,
        methods: Sequence[TraceMethod],
        block: Block,
        now_seconds: float,
        known: dict[str, Sequence[Frame]],
    ) -> Frames:
        """Trace what is not known yet. Raises EndpointFault, the first one where several transactions fail."""
        wanted = [each.hash for each in block.transactions if each.hash not in known]
        await _check_canonical(ask, block)
        failed: dict[str, EndpointFault] = {}

        async def trace_one(transaction_hash: str) -> None:
            try:
                known[transaction_hash] = await self._one(ask, methods, block, transaction_hash)
            except EndpointFault as fault:
                if not (_is_too_large(fault) or _is_out_of_time(fault) or _is_no_method(fault)):
                    raise
                failed[transaction_hash] = fault

        try:
            async with asyncio.TaskGroup() as group:
                for each in wanted:
                    group.create_task(trace_one(each))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await _check_canonical(ask, block)  # so it was all the time, and the endpoint answers
        self._works(methods[0])
        for each in wanted:
            if each in known:
                self._timed_out.pop(each, None)
        lasting = {
            each: _is_too_large(fault) or self._is_lasting(each, now_seconds, are_others_traced=bool(known))
            for each, fault in failed.items()
        }
        for each, fault in failed.items():
            if not lasting[each]:
                raise EndpointFault(fault.fault, f"trace of transaction {each}: {fault}", fault.rpc_code)
        if failed:
            told = "; ".join(f"{each}: {fault}" for each, fault in failed.items())
            raise EndpointFault(Fault.TRACE_TOO_LARGE, f"it cannot trace some transactions: {told}")
        return known

    async def _one(
        self, ask: Ask, methods: Sequence[TraceMethod], block: Block, transaction_hash: str
    ) -> Sequence[Frame]:
        """By the first of the methods that has room for it. Raises the last one's EndpointFault."""
        async with self._gate:
            for method in methods[:-1]:
                try:
                    return await transaction_frames(ask, method, block, transaction_hash)
                except EndpointFault as fault:
                    if not (_is_too_large(fault) or _is_no_method(fault)):
                        raise
            return await transaction_frames(ask, methods[-1], block, transaction_hash)

    def _is_lasting(self, transaction_hash: str, now_seconds: float, *, are_others_traced: bool) -> bool:
        """Note that it ran out of time. Whether that is the transaction's own, and no load of the node's."""
        while len(self._timed_out) >= TIMED_OUT_HELD_MAX and transaction_hash not in self._timed_out:
            del self._timed_out[next(iter(self._timed_out))]
        held = self._timed_out.setdefault(transaction_hash, _TimedOut(now_seconds))
        held.times += 1
        lasted = now_seconds - held.since >= TIMEOUT_SECONDS_MAX
        return held.times >= TIMEOUTS_MIN and (are_others_traced or lasted)


async def _check_canonical(ask: Ask, block: Block) -> None:
    found = await execution_api.header(ask, block.header.number)
    if found.hash != block.header.hash:
        raise EndpointFault(
            Fault.OTHER_BLOCK, f"block {found.number} is {found.hash}; {block.header.hash} was to be traced"
        )


def _is_no_method(fault: EndpointFault) -> bool:
    return fault.fault is Fault.RPC_ERROR and (
        fault.rpc_code in _NO_METHOD_CODES or _NO_METHOD_TEXT.search(str(fault)) is not None
    )


def _is_too_large(fault: EndpointFault) -> bool:
    is_told = fault.fault is Fault.RPC_ERROR and _TOO_MUCH_TEXT.search(str(fault)) is not None
    return is_told or fault.fault is Fault.TOO_LARGE


def _is_out_of_time(fault: EndpointFault) -> bool:
    is_told = fault.fault is Fault.RPC_ERROR and _OUT_OF_TIME_TEXT.search(str(fault)) is not None
    return is_told or fault.fault is Fault.TIMEOUT
