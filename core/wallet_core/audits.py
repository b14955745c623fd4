"""An audit's rules: what an address should hold by the wallet's own events, and why it may hold something else.

**Balances.** At a settled block B an address that nobody paid from holds what was deposited: for each asset

    balance at B - balance at `from` - 1  =  the sum of its deposits in the blocks `from` to B

A deposit counts as its last event says, by `sequence`: `confirmed` counts, `orphaned` does not, and `detected` in a
settled block counts and is a difference of its own, for the block cannot be taken back any more. Without `from` the
audit begins before the genesis block, where every balance is 0.

**Causes.** Where the two differ, the difference came about in some block, and `explain` says why, from what the block
holds by the wallet's own rules (`transfers`) and what was published of it:

- `not_on_chain`: published, and the chain does not have it, or not with that amount. The worst of all: it was credited;
- `not_published`: a deposit that was never published, although it should have been;
- `before_watch`: the same, in a block before the asset or the address was watched. Expected, and a rescan publishes it;
- `sent`: the address paid: its key is used elsewhere, for this wallet pays from no address;
- `funding`: it was paid from `sweep.gasAddress`, and such a payment is never a deposit;
- `traces_off`: ETH that no transaction, withdrawal or token explains, in a block that no node traces: most likely a
  contract paid it;
- `unlogged`: a token's balance that changed otherwise than its `Transfer` logs say;
- `unknown`: anything else, and what lies further back than the node's states reach.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wallet_core.addresses import Address, checksum_address, parse_address
from wallet_core.blocks import Header
from wallet_core.deposits import Deposit, Kind, calculate_event_id
from wallet_core.errors import AuditImpossible
from wallet_core.messages import TransactionAsset, TransactionEvent
from wallet_core.published import PUBLISHED_TRANSFERS_MAX
from wallet_core.resource import NativeAsset

NATIVE = NativeAsset.key


class Cause(StrEnum):
    """Why something is not as it should be; see the module."""

    NOT_ON_CHAIN = "not_on_chain"
    NOT_PUBLISHED = "not_published"
    NOT_CONFIRMED = "not_confirmed"
    """`detected` is the last that was said of it, and its block is settled."""
    BEFORE_WATCH = "before_watch"
    SENT = "sent"
    FUNDING = "funding"
    TRACES_OFF = "traces_off"
    UNLOGGED = "unlogged"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - a coin, not a secret
    """The address holds a token that is not among the assets."""
    UNKNOWN = "unknown"
    NOT_COVERED = "not_covered"
    """Blocks without a record that they were read."""
    WRONG_DIGEST = "wrong_digest"
    """One of the blocks that were read is not the chain's. Which one of the bucket's, nobody can tell."""
    ABOVE_BASE = "above_base"
    """A record of blocks that are not settled."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be."""

    cause: Cause
    message: str
    """What, and what a person can do."""
    first_block: int | None = None
    """Where it is; None where that was not found."""
    last_block: int | None = None
    address: str | None = None
    """With EIP-55's checksum; None for what concerns blocks."""
    asset: str | None = None
    """Symbol, or the contract of a token that is not listed."""
    amount: int | None = None
    """What the chain has more than was published (less: below 0), in base units."""
    transactions: tuple[str, ...] = ()
    """Their hashes, where some were found."""


@dataclass(frozen=True)
class PublishedAddress:
    """A record of `address.created`."""

    address: Address
    unix_time: int
    """When it was published, in seconds since the Unix epoch."""
    is_watched_only: bool
    """Whether its key is elsewhere."""


@dataclass(frozen=True)
class AuditedAsset:
    """An asset in force."""

    key: str
    """`native`, or the contract, 0x and 40 lower-case hex digits."""
    asset: TransactionAsset
    first_block: int
    """From which block on it is reported."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The last event of one transfer."""

    event_id: str
    sequence: int
    status: str
    asset_key: str
    amount: int
    """In base units."""
    block_number: int
    block_hash: str
    transaction: str | None


class Books:
    """What was said last of each transfer to some addresses. About 1 kB a transfer."""

    def __init__(self, addresses: Container[Address]) -> None:
        self._addresses = addresses
        self._last: dict[str, tuple[Address, Entry]] = {}
        self._of: dict[Address, list[Entry]] | None = None

    def add(self, value: bytes | None) -> bool:
        """Take in a record's value, in any order. False where it is no deposit's event, and so passed over.

        Raises AuditImpossible where there are more transfers than can be held.
        """
        try:
            event = TransactionEvent.model_validate_json(value or b"")
            # others' records may have an address of another checksum, or more digits than Python reads
            address, amount = parse_address(event.to), int(event.amount)
        except ValueError:  # pydantic's ValidationError is one
            return False
        known = self._last.get(event.event_id)
        if address not in self._addresses or (known is not None and known[1].sequence >= event.sequence):
            return True
        if len(self._last) >= PUBLISHED_TRANSFERS_MAX:
            raise AuditImpossible(
                f"more than {PUBLISHED_TRANSFERS_MAX} transfers were published: audit some addresses at a time, "
                "by --address"
            )
        key = event.asset.contract.lower() if event.asset.contract else NATIVE
        self._of = None
        self._last[event.event_id] = (
            address,
            Entry(
                event.event_id,
                event.sequence,
                event.status,
                key,
                amount,
                event.block_number,
                event.block_hash,
                event.txid,
            ),
        )
        return True

    def live(self, address: Address, asset_key: str, first: int, last: int) -> list[Entry]:
        """The address's transfers of an asset that stand, in these blocks."""
        if self._of is None:
            self._of = {}
            for owner, entry in self._last.values():
                if entry.status != "orphaned":
                    self._of.setdefault(owner, []).append(entry)
        return [
            entry
            for entry in self._of.get(address, ())
            if entry.asset_key == asset_key and first <= entry.block_number <= last
        ]


def total(entries: Iterable[Entry]) -> int:
    """The sum of their amounts."""
    return sum(entry.amount for entry in entries)


def unconfirmed(address: Address, asset: TransactionAsset, entries: Iterable[Entry]) -> list[Difference]:
    """Transfers in settled blocks that nobody was told to credit."""
    return [
        Difference(
            Cause.NOT_CONFIRMED,
            "the block is settled, and the last event of the transfer says `detected`; `walletctl sync rescan --from "
            f"{entry.block_number}` publishes `confirmed`",
            entry.block_number,
            entry.block_number,
            checksum_address(address),
            asset.symbol,
            0,
            (entry.transaction,) if entry.transaction else (),
        )
        for entry in entries
        if entry.status == "detected"
    ]


@dataclass(frozen=True)
class Change:
    """A block in which an address's balance changed otherwise than was published, and what the block holds."""

    chain_id: int
    address: Address
    asset: AuditedAsset
    block: Header
    amount: int
    """By how much more (less: below 0) than was published, in base units."""
    deposits: Sequence[Deposit]
    """Of the asset to the address, by the wallet's rules."""
    published: Sequence[Entry]
    """Live events that name a block of that number."""
    sent: Sequence[str] = ()
    """Hashes of transactions by which the address paid."""
    funded: Sequence[tuple[str, int]] = ()
    """Hashes and amounts of payments by the gas address."""
    is_traced: bool = True
    """Whether a node traced the block; of a token, nothing depends on it."""
    address_unix_time: int = 0
    """When the address was published, in seconds since the Unix epoch."""


def explain(change: Change) -> list[Difference]:
    """Every cause that the block shows; one of them at least."""
    deposits = {each.event_id: each for each in change.deposits}
    in_block = {each.event_id for each in change.published if each.block_hash == change.block.hash}
    missing = [each for name, each in deposits.items() if name not in in_block]
    wrong = [(each, excess) for each in change.published if (excess := _excess(each, change, deposits))]
    found: list[Difference] = []
    if wrong:
        transactions = [each.transaction for each, _ in wrong]
        found.append(_of(change, Cause.NOT_ON_CHAIN, sum(excess for _, excess in wrong), transactions))
    if missing:
        is_early = change.block.number < change.asset.first_block or change.block.timestamp < change.address_unix_time
        cause = Cause.BEFORE_WATCH if is_early else Cause.NOT_PUBLISHED
        found.append(_of(change, cause, sum(each.amount for each in missing), [each.txid for each in missing]))
    if change.funded:
        amount = sum(paid for _, paid in change.funded)
        found.append(_of(change, Cause.FUNDING, amount, [name for name, _ in change.funded]))
    rest = change.amount - sum(each.amount or 0 for each in found)
    if rest or not found:
        cause = _cause_of_rest(change, rest)
        found.append(_of(change, cause, rest, change.sent if cause is Cause.SENT else ()))
    return found


def not_located(
    address: Address, asset: TransactionAsset, amount: int, reason: str, blocks: tuple[int, int] | None = None
) -> Difference:
    """A difference whose block was not found, and why not."""
    first, last = blocks or (None, None)
    return Difference(Cause.UNKNOWN, reason, first, last, checksum_address(address), asset.symbol, amount)


def unknown_token(address: Address, contract: str, amount: int) -> Difference:
    """A token that the address holds and nobody asked to report. `contract` is lower-case hex."""
    name = checksum_address(parse_address(contract))
    return Difference(
        Cause.UNKNOWN_TOKEN,
        f"it holds {amount} base units of the token {name}, which is not among spec.assets; if it is worth something, "
        "add it there and order `walletctl sync rescan`",
        address=checksum_address(address),
        asset=name,
        amount=amount,
    )


_MESSAGES = {
    Cause.NOT_ON_CHAIN: "what was published is not in the chain: look at what was credited",
    Cause.NOT_PUBLISHED: "never published (of ETH that a contract paid: perhaps no node traced the block when it was "
    "read); `walletctl sync rescan --from {block}` publishes it, and tell the wallet's authors",
    Cause.BEFORE_WATCH: "in the chain before the address or the asset was watched; "
    "`walletctl sync rescan --from {block}` publishes it",
    Cause.SENT: "the address paid: somebody else uses its key",
    Cause.FUNDING: "paid by sweep.gasAddress, which is never a deposit",
    Cause.TRACES_OFF: "no transaction explains it, and no node traces the block: a contract may have paid it. Add a "
    "node with traces (an archive, for old blocks), then `walletctl sync rescan --from {block}`",
    Cause.UNLOGGED: "the token's balance changed otherwise than its Transfer logs say: it is no plain ERC-20 token",
    Cause.UNKNOWN: "neither a transaction, nor a withdrawal, nor a contract of the block explains it (the reward of a "
    "block's producer?)",
}


def _of(change: Change, cause: Cause, amount: int, transactions: Iterable[str | None]) -> Difference:
    number = change.block.number
    return Difference(
        cause,
        _MESSAGES[cause].format(block=number),
        number,
        number,
        checksum_address(change.address),
        change.asset.asset.symbol,
        amount,
        tuple(dict.fromkeys(each for each in transactions if each is not None)),
    )


def _excess(entry: Entry, change: Change, deposits: dict[str, Deposit]) -> int:
    """How much more than the event says the chain's block holds of its transfer."""
    if entry.block_hash != change.block.hash:
        return -entry.amount
    if entry.event_id in deposits:
        return deposits[entry.event_id].amount - entry.amount
    is_out_of_sight = change.asset.key == NATIVE and not change.is_traced and _is_inside_contract(entry, change)
    return 0 if is_out_of_sight else -entry.amount


def _is_inside_contract(entry: Entry, change: Change) -> bool:
    if entry.transaction is None:
        return False
    return entry.event_id != calculate_event_id(change.chain_id, entry.transaction, Kind.TRANSACTION, 0)


def _cause_of_rest(change: Change, rest: int) -> Cause:
    if rest < 0 and change.sent:
        return Cause.SENT
    if change.asset.key != NATIVE:
        return Cause.UNLOGGED
    return Cause.UNKNOWN if change.is_traced else Cause.TRACES_OFF
