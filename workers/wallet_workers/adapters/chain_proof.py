"""What an endpoint must show before it is believed: that it is of our chain, and of our branch.

- **Chain**: its chain id; and its block 0, for forks of a chain and test chains share their ids. The genesis block that
  is expected is the one that the wallet's state names. Before anybody named one it is the first endpoint's; with a
  quorum any will do, for the quorum decides about that block as about any other.
- **Branch**: the highest block that endpoints agreed on, as one that may settle (`agreement.py`), so that one that sits
  on a branch of its own is not asked again until it has left it. A lower block is no such proof: there the branches may
  be one still. The chain itself may leave that block, for another one or for none of that height. So it counts who
  has it no more; once they are as many as the quorum, nobody is held to it, and everybody proves the chain anew, with
  the block that so many of them have instead, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wallet_core.blocks import Header
from wallet_workers.adapters import execution_api
from wallet_workers.adapters.json_rpc import EndpointFault, Fault
from wallet_workers.adapters.verdict import ON_ANOTHER_BRANCH


class ChainProof:
    """What is expected of every endpoint of a wallet."""

    def __init__(self, chain_id: int, quorum: int, on_left: Callable[[], None]) -> None:
        """`on_left` is called when the chain has left the block that endpoints agreed on."""
        self._chain_id = chain_id
        self._quorum = quorum
        self._on_left = on_left
        self._genesis_hash: str | None = None
        self.agreed: Header | None = None
        """The highest block that endpoints agreed on, and that the chain has not left since."""
        self.times_left = 0
        """How often the chain left such a block. An answer to a question from before that is not believed."""
        self._dissents: dict[int, Header | None] = {}
        """The endpoints, by number, that did not have `agreed` in their last proof; and what they had in its place."""

    def expect_genesis(self, genesis_hash: str) -> bool:
        """Expect this block 0. Returns whether that is new."""
        is_new = genesis_hash != self._genesis_hash
        self._genesis_hash = genesis_hash
        return is_new

    def note_agreed(self, agreed: Header) -> None:
        """Endpoints agreed on this block."""
        held = self.agreed
        if held is None or agreed.number > held.number or (agreed.number == held.number and agreed.hash != held.hash):
            self.agreed = agreed
            self._dissents.clear()

    async def demand(self, ask: execution_api.Ask, endpoint: int, *, with_branch: bool) -> None:
        """Ask the endpoint of that number for the proof. Raises EndpointFault."""
        found = await execution_api.chain_id(ask)
        if found != self._chain_id:
            raise EndpointFault(Fault.WRONG_CHAIN, f"is of chain {found}, not of chain {self._chain_id}")
        genesis = await _needed_header(ask, 0)
        if self._genesis_hash is None and self._quorum == 1:
            self._genesis_hash = genesis.hash
        if self._genesis_hash not in (None, genesis.hash):
            raise EndpointFault(
                Fault.WRONG_GENESIS,
                f"is of another chain with the same id: its block 0 is {genesis.hash}, not {self._genesis_hash}",
            )
        agreed = self.agreed
        if with_branch and agreed is not None:
            try:
                at_agreed = await execution_api.header(ask, agreed.number)
            except EndpointFault as fault:
                if fault.fault not in ON_ANOTHER_BRANCH:
                    raise
                self._note_dissent(endpoint, agreed, None)
                raise EndpointFault(
                    Fault.INCONSISTENT, f"lacks block {agreed.number}, and the others agree on {agreed.hash}"
                ) from None
            if at_agreed.hash != agreed.hash:
                self._note_dissent(endpoint, agreed, at_agreed)
                raise dissent(agreed, at_agreed)
            self._dissents.pop(endpoint, None)

    def _note_dissent(self, endpoint: int, agreed: Header, found: Header | None) -> None:
        if self.agreed is not agreed:  # another one took its place while the endpoint was asked
            return
        self._dissents[endpoint] = found
        if len(self._dissents) >= self._quorum:
            self.agreed = with_quorum([each for each in self._dissents.values() if each is not None], self._quorum)
            self.times_left += 1
            self._dissents.clear()
            self._on_left()


def with_quorum(answers: Sequence[Header], quorum: int) -> Header | None:
    """The header that so many have."""
    hashes = [found.hash for found in answers]
    return next((found for found in answers if hashes.count(found.hash) >= quorum), None)


def dissent(agreed: Header, found: Header) -> EndpointFault:
    """The fault of an endpoint that has another block where so many agree."""
    return EndpointFault(
        Fault.DISAGREES, f"its block {found.number} is {found.hash}, and the others agree on {agreed.hash}"
    )


async def _needed_header(ask: execution_api.Ask, number: int) -> Header:
    try:
        return await execution_api.header(ask, number)
    except EndpointFault as fault:
        if fault.fault in ON_ANOTHER_BRANCH:  # not to have it is no proof
            raise EndpointFault(Fault.INCONSISTENT, f"lacks block {number}, which every node has") from None
        raise
