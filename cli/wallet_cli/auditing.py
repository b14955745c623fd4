"""An audit: reads what the wallet recorded and published, asks the node, and compares.

`wallet_core.coverage` and `wallet_core.audits` say what must hold. Here everything is read, a few questions at a time:

- the state first, and the events after it, so that every event of a settled block is among them;
- the last block of the audit is *pinned*: balances are asked by its number, so its hash is asked before and after them;
- what is held is bounded: the audited addresses and their transfers, and of blocks and balances one batch at a time.

**Tokens that are not listed** are found by their `Transfer` logs to the audited addresses, from the first audited block
on, or from where the wallet began. That takes a request for every `LOG_BLOCKS` blocks and `LOG_ADDRESSES` addresses; an
audit of all addresses that would need more than `LOG_REQUESTS_MAX` leaves it out and says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wallet_cli.at_once import at_once, patiently
from wallet_cli.audit_causes import AuditNode, CauseFinder, balance_at
from wallet_core.addresses import Address, checksum_address
from wallet_core.audits import (
    AuditedAsset,
    Books,
    Cause,
    Difference,
    PublishedAddress,
    not_located,
    total,
    unconfirmed,
    unknown_token,
)
from wallet_core.blocks import Header
from wallet_core.chain import BlockRef
from wallet_core.checkpoint import CHECKPOINT_KEY, SyncState, check_identity, read_identity, read_state
from wallet_core.coverage import Blocks, Bucket, Joins, check_joins, digest_of, read_buckets
from wallet_core.errors import AuditImpossible, InvalidSetting, NodeDeclined, NodeInconsistent
from wallet_core.messages import TransactionAsset
from wallet_core.orders import OrderStatus
from wallet_core.ports import PublishedEvents, StateView
from wallet_core.resource import WalletManager

ADDRESSES_AT_ONCE = 64
"""Addresses whose balances are asked in one batch."""
LOCATED_MAX = 100
"""Differing balances (of one address and asset) whose causes are looked for."""
LOG_BLOCKS = 1_000
LOG_ADDRESSES = 200
LOG_REQUESTS_MAX = 2_000
UNLISTED_MAX = 10_000
"""Pairs of an address and a token that is not listed: beyond, the search ends."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""

_T = TypeVar("_T")


class Accounts(Protocol):
    """See KafkaAccounts."""

    def read(self) -> AsyncIterator[Sequence[PublishedAddress]]:
        """Every published address."""


@dataclass(frozen=True)
class AuditPorts:
    """What an audit reads."""

    node: AuditNode
    state: StateView
    accounts: Accounts
    published: PublishedEvents


@dataclass(frozen=True)
class Scope:
    """What is audited."""

    first: int | None = None
    """First block; None: from the beginning."""
    last: int | None = None
    """Last block; None: the newest settled one."""
    addresses: tuple[Address, ...] = ()
    """These addresses only; none: all whose keys are the wallet's."""


@dataclass(frozen=True)
class Report:
    """What an audit found."""

    wallet: str
    first: int | None
    """First audited block, where one was named."""
    block: BlockRef
    """The last one."""
    joins: Joins
    buckets_checked: int
    unsettled: Blocks | None
    """Blocks of the wallet's window: they are no proof yet."""
    addresses: int
    """How many were audited."""
    assets: tuple[str, ...]
    """Symbols of those that were audited."""
    passed_over: int
    """Records on `transaction` that are no deposits' events."""
    tokens_unsought: str | None
    """Why nobody looked for tokens that are not listed; None where somebody did."""
    differences: tuple[Difference, ...]


class Audit:
    """One audit. `run` once."""

    def __init__(self, wallet: WalletManager, ports: AuditPorts, scope: Scope, progress: Progress) -> None:
        self._wallet = wallet
        self._ports = ports
        self._node = ports.node
        self._scope = scope
        self._progress = progress
        self._first = scope.first or 0

    async def run(self) -> Report:
        """What was found.

        Raises AuditImpossible, InvalidSetting for a scope that cannot be, CheckpointCorrupt, and the errors of Kafka
        and of the node.
        """
        values = await self._ports.state.read()
        state = self._state(values)
        last = self._last_block(state)
        pinned = await self._pin(last, state)
        recorded = read_buckets(values)
        joins = check_joins(
            recorded,
            state.window.base.number,
            first_read=min(state.asset_first_blocks.values(), default=state.window.base.number + 1),
            is_rewound=_is_rewound(state),
        )
        buckets = [each for each in recorded if each.last >= self._first and each.first <= last]
        differences = [*self._differences_of(joins, last), *await self._check_digests(buckets)]

        addresses = await self._read_addresses()
        books = Books(addresses)
        passed_over = 0
        async for batch in self._ports.published.read():
            passed_over += sum(not books.add(record.value) for record in batch)
        assets = self._assets(state)
        differences += await self._check_balances(addresses, assets, books, state, last)
        unsought, tokens = await self._find_tokens(list(addresses), state, last)
        differences += tokens

        if (again := await self._agreed(last)).hash != pinned.hash:
            raise NodeInconsistent(f"block {last} was {pinned.hash} and became {again.hash}: try again")
        window = state.window
        return Report(
            wallet=self._wallet.qualified_name,
            first=self._scope.first,
            block=BlockRef(last, pinned.hash),
            joins=joins,
            buckets_checked=len(buckets),
            unsettled=Blocks(window.base.number + 1, window.tip.number) if window.blocks else None,
            addresses=len(addresses),
            assets=tuple(each.asset.symbol for each in assets),
            passed_over=passed_over,
            tokens_unsought=unsought,
            differences=tuple(differences),
        )

    # --- the state ----------------------------------------------------------------------------------------------------

    def _state(self, values: Mapping[bytes, bytes]) -> SyncState:
        identity = read_identity(values)
        if identity is None or CHECKPOINT_KEY not in values:
            raise AuditImpossible(
                "the wallet has no checkpoint; if it never ran, start it with `walletctl run -f FILE`, else "
                "`walletctl sync rewind --to N` goes on from a settled block"
            )
        metadata, chain_id = self._wallet.metadata, self._wallet.spec.chain.id
        check_identity(identity, namespace=metadata.namespace, name=metadata.name, chain_id=chain_id)
        self._node.expect_genesis(identity.genesis_hash)
        return read_state(values)

    def _last_block(self, state: SyncState) -> int:
        base = state.window.base.number
        last = base if self._scope.last is None else self._scope.last
        if last > base:
            raise InvalidSetting(
                "--to", f"block {last} is not settled yet; the newest settled block is {base}: name that or a lower one"
            )
        if self._first > last:
            raise InvalidSetting("--from", f"block {self._first} is above block {last}, the last one of the audit")
        return last

    async def _pin(self, number: int, state: SyncState) -> Header:
        """The header of the audit's last block, on the wallet's own branch."""
        base = state.window.base
        settled = await self._agreed(base.number)
        if settled.hash != base.hash:
            raise NodeInconsistent(
                f"the node has another block {base.number} ({settled.hash}) than the settled one of the wallet "
                f"({base.hash}): one of them is on a wrong branch; see `walletctl status`"
            )
        return settled if number == base.number else await self._agreed(number)

    async def _agreed(self, number: int) -> Header:
        return await patiently(lambda: self._node.agreed_header(number))

    # --- coverage -----------------------------------------------------------------------------------------------------

    def _differences_of(self, joins: Joins, last: int) -> list[Difference]:
        told = [
            (Cause.NOT_COVERED, joins.gaps, "no record says that these blocks were read: order a rescan of them"),
            (Cause.ABOVE_BASE, joins.beyond, "a record says that these blocks were read, and they are not settled"),
        ]
        return [
            Difference(cause, message, blocks.first, blocks.last)
            for cause, found, message in told
            for blocks in found
            if cause is Cause.ABOVE_BASE or (blocks.last >= self._first and blocks.first <= last)
        ]

    async def _check_digests(self, buckets: Sequence[Bucket]) -> list[Difference]:
        differences: list[Difference] = []
        for done, bucket in enumerate(buckets):
            self._progress("buckets of blocks", done, len(buckets))
            headers = await at_once(self._node.header, range(bucket.first, bucket.last + 1))
            if digest_of(header.hash for header in headers) != bucket.digest:
                differences.append(
                    Difference(
                        Cause.WRONG_DIGEST,
                        "one of the blocks that were read is not the chain's, or one was left out; nobody can tell "
                        "which: `walletctl sync rewind` to a block below them reads them again",
                        bucket.first,
                        bucket.last,
                    )
                )
        return differences

    # --- balances -----------------------------------------------------------------------------------------------------

    async def _read_addresses(self) -> Mapping[Address, int]:
        """The audited addresses in order, and when each was published, in seconds since the Unix epoch."""
        wanted = set(self._scope.addresses)
        found: dict[Address, int] = {}
        async for batch in self._ports.accounts.read():
            for each in batch:
                if each.address in wanted or not (wanted or each.is_watched_only):
                    found[each.address] = min(each.unix_time, found.get(each.address, each.unix_time))
        if strangers := wanted - found.keys():
            raise InvalidSetting("--address", f"{checksum_address(min(strangers))} is no address of this wallet")
        return dict(sorted(found.items()))

    def _assets(self, state: SyncState) -> list[AuditedAsset]:
        first_blocks = state.asset_first_blocks
        return [
            AuditedAsset(
                each.key, TransactionAsset(symbol=each.symbol, contract=each.contract, decimals=each.decimals), first
            )
            for each in self._wallet.spec.assets
            if (first := first_blocks.get(each.key)) is not None
        ]

    async def _check_balances(
        self,
        addresses: Mapping[Address, int],
        assets: Sequence[AuditedAsset],
        books: Books,
        state: SyncState,
        last: int,
    ) -> list[Difference]:
        finder = CauseFinder(
            self._node, books, self._wallet.spec.chain.id, state.gas_address, first=self._first, last=last
        )
        differences: list[Difference] = []
        located = done = 0

        async def excess(pair: tuple[Address, AuditedAsset]) -> int:
            address, asset = pair
            held = await balance_at(self._node, asset, address, last)
            if self._first:
                held -= await balance_at(self._node, asset, address, self._first - 1)
            return held - total(books.live(address, asset.key, self._first, last))

        for batch in _batches(list(addresses), ADDRESSES_AT_ONCE):
            self._progress("addresses", done, len(addresses))
            pairs = [(address, asset) for address in batch for asset in assets]
            try:
                amounts = await at_once(excess, pairs)
            except NodeDeclined as declined:
                raise AuditImpossible(
                    f"no node gives the balances at block {last} or {self._first - 1} (an archive node in "
                    f"spec.chain.rpc does): {declined}"
                ) from None
            for (address, asset), amount in zip(pairs, amounts, strict=True):
                differences += unconfirmed(address, asset.asset, books.live(address, asset.key, self._first, last))
                if amount and located < LOCATED_MAX:
                    located += 1
                    differences += await finder.causes(address, asset, amount, addresses[address])
                elif amount:
                    reason = (
                        f"more than {LOCATED_MAX} balances differ; `walletctl audit --address "
                        f"{checksum_address(address)}` looks for this one's cause"
                    )
                    differences.append(not_located(address, asset.asset, amount, reason))
            done += len(batch)
        return differences

    # --- tokens that are not listed -----------------------------------------------------------------------------------

    async def _find_tokens(
        self, addresses: Sequence[Address], state: SyncState, last: int
    ) -> tuple[str | None, list[Difference]]:
        """Why nobody looked for them, if so; and those that are held."""
        first = self._first if self._scope.first is not None else min(state.asset_first_blocks.values(), default=0)
        ranges = [(at, min(at + LOG_BLOCKS - 1, last)) for at in range(first, last + 1, LOG_BLOCKS)]
        groups = list(_batches(addresses, LOG_ADDRESSES))
        requests = len(ranges) * len(groups)
        if not self._scope.addresses and (reason := why_too_many(requests)):
            return reason, []
        listed = {each.key for each in self._wallet.spec.assets}
        sent: set[tuple[Address, str]] = set()
        try:
            for number, (blocks, group) in enumerate((blocks, group) for blocks in ranges for group in groups):
                self._progress("logs of tokens", number, requests)
                found = await self._sent(group, *blocks)
                sent |= {pair for pair in found if pair[1] not in listed}
                if len(sent) > UNLISTED_MAX:
                    return f"more than {UNLISTED_MAX} were sent: name addresses by --address", []
            pairs = sorted(sent)
            held = await at_once(lambda pair: self._node.token_balance(pair[1], pair[0], last), pairs)
        except NodeDeclined as declined:
            return f"no node tells: {declined}", []
        differences = [
            unknown_token(address, contract, amount)
            for (address, contract), amount in zip(pairs, held, strict=True)
            if amount
        ]
        return None, differences

    async def _sent(self, recipients: Sequence[Address], first: int, last: int) -> set[tuple[Address, str]]:
        """Who was sent which token; a range that is declined is halved. Raises NodeDeclined for a single block."""
        try:
            found = await patiently(lambda: self._node.tokens_sent(recipients, first, last))
        except NodeDeclined:
            if first == last:
                raise
            middle = (first + last) // 2
            lower = await self._sent(recipients, first, middle)
            return lower | await self._sent(recipients, middle + 1, last)
        return {(each.recipient, each.contract) for each in found}


def _is_rewound(state: SyncState) -> bool:
    """Whether the base is the block that a rewind went back to: nothing was settled since, so nothing recorded."""
    return any(
        order.type == "rewind" and order.status is OrderStatus.DONE and order.from_block == state.window.base.number
        for order in state.orders.orders
    )


def why_too_many(requests: int) -> str | None:
    """Why tokens are not looked for by so many requests; None where they are."""
    if requests <= LOG_REQUESTS_MAX:
        return None
    return f"it would take {requests} requests: name addresses by --address, or a later block by --from"


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[at : at + size] for at in range(0, len(items), size))
