"""Why an address holds something else than was published: finds the blocks where the difference came about.

Balance less published deposits, block by block, is a line that should be flat. Between two blocks where it differs
there is one at which it steps, and halving finds one with a question for each bit of the distance, if the node has the
states of all these blocks. `audits.explain` then says why, from the block's transactions, logs, withdrawals and traces.
Steps that cancel each other out are not found, and make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wallet_cli.at_once import at_once, patiently
from wallet_core.addresses import Address, lower_hex, parse_address
from wallet_core.audits import NATIVE, AuditedAsset, Books, Change, Difference, explain, not_located, total
from wallet_core.blocks import Block, Log, Receipt
from wallet_core.bloom import admitted
from wallet_core.errors import NodeDeclined
from wallet_core.matching import AddressSet
from wallet_core.ports import Node
from wallet_core.tokens import TRANSFER_TOPIC
from wallet_core.traces import Movement, movements
from wallet_core.transfers import BlockContents, Reported, deposits_of_block, hits_of_block
from wallet_workers.adapters.account_states import Sent

CHANGES_MAX = 5
"""Steps that are looked for, of one asset of one address."""


class AuditNode(Node, Protocol):
    """See AccountStates."""

    async def balance(self, address: Address, number: int) -> int:
        """In wei, after that block. Raises NodeDeclined."""

    async def token_balance(self, contract: str, address: Address, number: int) -> int:
        """In base units, after that block. Raises NodeDeclined."""

    async def tokens_sent(self, recipients: Sequence[Address], first: int, last: int) -> Sequence[Sent]:
        """Tokens that these addresses were sent in these blocks. Raises NodeDeclined."""


async def balance_at(node: AuditNode, asset: AuditedAsset, address: Address, number: int) -> int:
    """In base units, after that block; before the genesis block (-1) there is nothing."""
    if number < 0:
        return 0
    if asset.key == NATIVE:
        return await node.balance(address, number)
    return await node.token_balance(asset.key, address, number)


@dataclass(frozen=True)
class Step:
    """A block in which balance and published deposits part."""

    block: int
    amount: int
    """By how much more the balance grew."""


class CauseFinder:
    """Finds causes by one node, of one audit."""

    def __init__(
        self, node: AuditNode, books: Books, chain_id: int, gas_address: str | None, first: int, last: int
    ) -> None:
        """`first` to `last`: the audited blocks."""
        self._node = node
        self._books = books
        self._chain_id = chain_id
        self._gas_address = parse_address(gas_address) if gas_address else None
        self._first = first
        self._last = last

    async def causes(
        self, address: Address, asset: AuditedAsset, amount: int, published_at: int
    ) -> Sequence[Difference]:
        """What makes up the difference `amount`, in base units, of an address that was published at that Unix time."""
        found: list[Difference] = []
        low, left = self._first - 1, amount
        try:
            drift_low = await self._drift(address, asset, low)
            drift_end = drift_low + amount
            for _ in range(CHANGES_MAX):
                step = await self._next_step(address, asset, (low, drift_low), (self._last, drift_end))
                found += explain(await self._change(address, asset, step, published_at))
                low, drift_low, left = step.block, drift_low + step.amount, left - step.amount
                if not left:
                    return found
        except NodeDeclined as declined:
            reason = (
                f"no node gives the states between (an archive node in spec.chain.rpc would find the block): {declined}"
            )
        else:
            reason = f"there are more such blocks; `walletctl audit --from {low + 1}` goes on"
        return [*found, not_located(address, asset.asset, left, reason, (low + 1, self._last))]

    async def _drift(self, address: Address, asset: AuditedAsset, number: int) -> int:
        """Balance after that block less what was published up to it."""
        balance = await patiently(lambda: balance_at(self._node, asset, address, number))
        return balance - total(self._books.live(address, asset.key, self._first, number))

    async def _next_step(
        self, address: Address, asset: AuditedAsset, low: tuple[int, int], high: tuple[int, int]
    ) -> Step:
        """A step above block `low`, at or below block `high`, whose drifts differ."""
        (below, drift_below), (at, drift_at) = low, high
        while at - below > 1:
            middle = (below + at) // 2
            drift = await self._drift(address, asset, middle)
            if drift == low[1]:
                below = middle
            else:
                at, drift_at = middle, drift
        return Step(at, drift_at - drift_below)

    # --- what a block holds -------------------------------------------------------------------------------------------

    async def _change(self, address: Address, asset: AuditedAsset, step: Step, published_at: int) -> Change:
        block = await patiently(lambda: self._node.block(step.block))
        is_native = asset.key == NATIVE
        reported = Reported(
            self._chain_id,
            asset.asset if is_native else None,
            {} if is_native else {asset.key: asset.asset},
            self._gas_address,
        )
        logs = () if is_native else await self._logs(block, asset.key)
        moved = await self._movements(block) if is_native else ()
        contents = BlockContents(block, logs, moved or ())
        addresses = AddressSet([address])
        hits = hits_of_block(contents, addresses, reported)
        receipts = await self._receipts(block, hits.receipts_wanted)
        return Change(
            chain_id=self._chain_id,
            address=address,
            asset=asset,
            block=block.header,
            amount=step.amount,
            deposits=deposits_of_block(contents, hits, receipts, addresses, reported),
            published=self._books.live(address, asset.key, step.block, step.block),
            sent=_sent(block, contents, address) if is_native else _tokens_sent(logs, address),
            funded=await self._funded(block, address) if is_native else (),
            is_traced=moved is not None,
            address_unix_time=published_at,
        )

    async def _logs(self, block: Block, contract: str) -> Sequence[Log]:
        contracts = admitted(block.header, [contract], TRANSFER_TOPIC)
        if not contracts:
            return ()
        return await patiently(lambda: self._node.logs(block.header, contracts, TRANSFER_TOPIC))

    async def _movements(self, block: Block) -> Sequence[Movement] | None:
        """ETH moved inside contracts; None where no node traces the block, or not all of its transactions."""
        if not block.transactions:
            return ()
        frames = await patiently(lambda: self._node.frames(block))
        if frames is None:
            return None
        found: list[Movement] = []
        for each in block.transactions:
            of_transaction = frames[each.hash]
            if of_transaction is None:
                return None
            found += movements(each, of_transaction)
        return found

    async def _funded(self, block: Block, address: Address) -> Sequence[tuple[str, int]]:
        if self._gas_address is None:
            return ()
        paid = {
            each.hash: int(each.value, 16)
            for each in block.transactions
            if each.to == lower_hex(address) and each.from_ == lower_hex(self._gas_address)
        }
        receipts = await self._receipts(block, list(paid))
        return [(name, amount) for name, amount in paid.items() if amount and receipts[name].succeeded]

    async def _receipts(self, block: Block, hashes: Sequence[str]) -> dict[str, Receipt]:
        found = await at_once(lambda each: self._node.receipt(each, block.header.hash), hashes)
        return {receipt.transaction_hash: receipt for receipt in found}


def _sent(block: Block, contents: BlockContents, address: Address) -> Sequence[str]:
    own = lower_hex(address)
    moved = [each.transaction_hash for each in contents.movements if each.sender == own]
    return [*(each.hash for each in block.transactions if each.from_ == own), *moved]


def _tokens_sent(logs: Sequence[Log], address: Address) -> Sequence[str]:
    word = "0x" + address.hex().zfill(64)
    return [log.transaction_hash for log in logs if log.topics[1:2] == (word,)]
