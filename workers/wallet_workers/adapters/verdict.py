"""What several endpoints' faults come to: what to raise when every one of them failed, and which are to blame.

- `Untraceable` where each of our chain lacks traces of the block, or of some of its transactions, and `NodeDeclined`
  where each will not answer the question: facts about the question, and no trouble;
- else `NodeInconsistent` if one of the right chain answered and could not be believed or did not have it;
- else `WrongChain` if one of another chain answered;
- else `RpcUnreachable`.

The text lists each endpoint by number and origin.
"""

from __future__ import annotations

from collections.abc import Sequence

from wallet_core.errors import NodeDeclined, NodeInconsistent, RpcUnreachable, Unavailable, WrongChain
from wallet_workers.adapters.json_rpc import EndpointFault, Fault

NOT_COUNTED = frozenset({Fault.UNTRACEABLE, Fault.DECLINED})
"""No failures: an endpoint need not be able to answer everything."""
ON_ANOTHER_BRANCH = frozenset({Fault.ABSENT, Fault.OTHER_BLOCK})
"""It may only be late, or on another branch."""
NOT_TO_BLAME = ON_ANOTHER_BRANCH | {Fault.TRACE_TOO_LARGE}
"""Counted, and the endpoint stays as usable as it was."""
WITHOUT_TRACES = frozenset({Fault.UNTRACEABLE, Fault.TRACE_TOO_LARGE})
"""It answered, and lacks traces that were asked for."""
_ANOTHER_CHAIN = frozenset({Fault.WRONG_CHAIN, Fault.WRONG_GENESIS})
_OF_OUR_CHAIN = ON_ANOTHER_BRANCH | {
    Fault.INCONSISTENT,
    Fault.BLOOM,
    Fault.FORGED,
    Fault.DISAGREES,
    Fault.TOO_LARGE,
    Fault.TRACE_TOO_LARGE,
}
"""An endpoint of the right chain answered, and could not be believed or did not have it."""


class Untraceable(Exception):
    """No endpoint of our chain has traces of the block that it can give."""

    def __init__(self, text: str, *, is_too_large: bool) -> None:
        super().__init__(text)
        self.is_too_large = is_too_large
        """Whether one has them and they are larger than an answer may be."""


def verdict(faults: Sequence[tuple[str, EndpointFault]]) -> Unavailable | NodeDeclined | Untraceable:
    """What to raise when every endpoint, given by its name, failed."""
    text = "; ".join(f"{name}: {fault}" for name, fault in faults)
    kinds = {fault.fault for _, fault in faults}
    # an endpoint that does not answer may have the traces that the others lack (`traces.py`)
    if kinds & WITHOUT_TRACES and kinds <= WITHOUT_TRACES | _ANOTHER_CHAIN:
        return Untraceable(text, is_too_large=Fault.TRACE_TOO_LARGE in kinds)
    if Fault.DECLINED in kinds and kinds <= {Fault.DECLINED} | _ANOTHER_CHAIN:
        return NodeDeclined(text)
    if kinds & _OF_OUR_CHAIN:
        return NodeInconsistent(text)
    if kinds & _ANOTHER_CHAIN:
        return WrongChain(text)
    return RpcUnreachable(text)
