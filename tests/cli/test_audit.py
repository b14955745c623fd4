"""`walletctl audit`: what it proves, which differences it finds, and which causes it names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from virtual_time import in_virtual_time
from wallet_cli.at_once import TRIES_MAX, at_once
from wallet_cli.audit import document, summary
from wallet_cli.audit_causes import CHANGES_MAX
from wallet_cli.auditing import (
    LOCATED_MAX,
    LOG_BLOCKS,
    LOG_REQUESTS_MAX,
    Audit,
    AuditPorts,
    Report,
    Scope,
    why_too_many,
)
from wallet_core.addresses import Address, checksum_address, lower_hex
from wallet_core.audits import Cause, PublishedAddress
from wallet_core.blocks import Block, Frame, FrameKind, Header
from wallet_core.chain import BlockRef, Window, WindowBlock
from wallet_core.checkpoint import Identity, SyncState, identity_record, state_records
from wallet_core.coverage import Coverage, cover, covered_key
from wallet_core.deposits import Announcement, Status, announce
from wallet_core.errors import AuditImpossible, InvalidSetting, NodeDeclined, NodeInconsistent, RpcUnreachable
from wallet_core.matching import AddressSet
from wallet_core.messages import Record, TransactionAsset
from wallet_core.orders import OrderBook, OrderState, OrderStatus
from wallet_core.published import PublishedRecord
from wallet_core.resource import parse_resource
from wallet_core.testing.fake_chain import BLOCK_SECONDS, GENESIS_TIMESTAMP, FakeChain, FakeNode, transfer_log
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.traces import movements
from wallet_core.transfers import BlockContents, Reported, deposits_of_block, hits_of_block
from wallet_workers.adapters.account_states import Sent

ALICE, BOB, ELSEWHERE, GAS, CONTRACT, TOKEN, SPAM = (
    Address(bytes([each]) * 20) for each in b"\xa1\xb0\xee\x6a\xc7\xc0\x5a"
)
ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
TOK = TransactionAsset(symbol="TOK", contract=checksum_address(TOKEN), decimals=6)
SETTLED = 40
"""Newest settled block; two more lie above it."""
WALLET = parse_resource(
    {
        "apiVersion": "wallet-manager.dev/v1alpha1",
        "kind": "WalletManager",
        "metadata": {"name": "audited"},
        "spec": {
            "chain": {"id": 1, "rpc": [{"url": "http://127.0.0.1:1"}]},
            "kafka": {"bootstrapServers": "127.0.0.1:1"},
            "redis": {"url": "redis://127.0.0.1:1/0"},
            "accounts": {"fingerprint": "00" * 20, "xpubFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
            "assets": [
                {"type": "native", "symbol": "ETH"},
                {"type": "erc20", "symbol": "TOK", "contract": TOK.contract, "decimals": 6},
            ],
        },
    }
)


class StatefulNode(FakeNode):
    """Knows balances too: each is the sum of what the chain moved."""

    def __init__(self, chain: FakeChain) -> None:
        super().__init__(chain, FakeClock())
        self.state_from = 0
        """The oldest block whose state it has."""
        self.log_blocks_max = LOG_BLOCKS
        self.unlogged: dict[tuple[Address, int], int] = {}
        """By address and block, what the token gives without a log."""
        self.asked = 0

    async def balance(self, address: Address, number: int) -> int:
        self._ask(number)
        own = lower_hex(address)
        return sum(
            (amount if to == own else 0) - (amount if sender == own else 0)
            for block in self.chain.blocks[: number + 1]
            for sender, to, amount in self._moved(block)
        )

    async def token_balance(self, contract: str, address: Address, number: int) -> int:
        self._ask(number)
        word = "0x" + address.hex().zfill(64)
        logs = [log for block in self.chain.blocks[: number + 1] for log in self.chain.logs(block)]
        held = sum(
            int(log.data, 16) * ((log.topics[2] == word) - (log.topics[1] == word))
            for log in logs
            if log.address == contract
        )
        return held + sum(gift for (to, at), gift in self.unlogged.items() if to == address and at <= number)

    async def tokens_sent(self, recipients: Sequence[Address], first: int, last: int) -> Sequence[Sent]:
        self.asked += 1
        if last - first >= self.log_blocks_max:
            raise NodeDeclined("endpoint 1: error -32005: too many blocks")
        words = {"0x" + each.hex().zfill(64): each for each in recipients}
        return [
            Sent(log.address, words[log.topics[2]])
            for block in self.chain.blocks[first : last + 1]
            for log in self.chain.logs(block)
            if log.topics[2] in words
        ]

    def _ask(self, number: int) -> None:
        self.asked += 1
        if number < self.state_from:
            raise NodeDeclined("endpoint 1: error -32000: missing trie node")

    def _moved(self, block: Block) -> Iterator[tuple[str, str | None, int]]:
        for each in block.transactions:
            frames = self.chain.frames(each, block)
            if not frames[0].failed:
                yield each.from_, each.to, int(each.value, 16)
                yield from ((moved.sender, moved.recipient, moved.value_wei) for moved in movements(each, frames))
        for withdrawal in block.withdrawals:
            yield "", withdrawal.address, withdrawal.amount_gwei * 10**9


class FlakyNode(StatefulNode):
    """Fails the first time that it is asked something."""

    def __init__(self, chain: FakeChain) -> None:
        super().__init__(chain)
        self.failed: set[str] = set()

    def _fail_once(self, question: str) -> None:
        if question not in self.failed:
            self.failed.add(question)
            raise RpcUnreachable("endpoint 1: HTTP status 429")

    async def agreed_header(self, number: int, *, may_settle: bool = True) -> Header:
        self._fail_once("agreed_header")
        return await super().agreed_header(number, may_settle=may_settle)

    async def header(self, number: int) -> Header:
        self._fail_once("header")
        return await super().header(number)

    async def block(self, number: int) -> Block:
        self._fail_once("block")
        return await super().block(number)

    async def balance(self, address: Address, number: int) -> int:
        self._fail_once("balance")
        return await super().balance(address, number)

    async def token_balance(self, contract: str, address: Address, number: int) -> int:
        self._fail_once("token_balance")
        return await super().token_balance(contract, address, number)

    async def tokens_sent(self, recipients: Sequence[Address], first: int, last: int) -> Sequence[Sent]:
        self._fail_once("tokens_sent")
        return await super().tokens_sent(recipients, first, last)


@dataclass
class World:
    """A wallet that has published everything, for a test to spoil."""

    chain: FakeChain = field(default_factory=lambda: FakeChain(1))
    accounts: list[PublishedAddress] = field(
        default_factory=lambda: [PublishedAddress(ALICE, 0, False), PublishedAddress(BOB, 0, False)]
    )
    unpublished: set[str] = field(default_factory=set)
    """Hashes of transactions that nothing was said of."""
    statuses: dict[str, str] = field(default_factory=dict)
    """By transaction, another status than `confirmed`."""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By transaction, other fields of its event."""
    first_blocks: dict[str, int] = field(default_factory=lambda: {"native": 1, lower_hex(TOKEN): 1})
    first_base: int = 0
    gas_address: str | None = None
    values: dict[bytes, bytes] = field(default_factory=dict)
    orders: OrderBook = field(default_factory=OrderBook)
    progress: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node = StatefulNode(self.chain)

    def settle(self) -> None:
        """Fill the chain up, and write the state."""
        self.chain.mine_empty(SETTLED + 3 - len(self.chain.blocks))
        headers = [block.header for block in self.chain.blocks]
        refs = [BlockRef(each.number, each.hash) for each in headers]
        window = [
            WindowBlock(each.number, each.hash, each.parent_hash, each.timestamp, ()) for each in headers[SETTLED + 1 :]
        ]
        state = SyncState(
            Window(refs[SETTLED], tuple(window)),
            asset_first_blocks=self.first_blocks,
            gas_address=self.gas_address,
            orders=self.orders,
            coverage=cover(Coverage(), refs[self.first_base + 1 : SETTLED + 1]),
        )
        identity = Identity("default", "audited", 1, headers[0].hash, "00" * 20)
        for record in [identity_record(identity), *state_records(None, state)]:
            assert record.value is not None
            self.values[record.key] = record.value

    async def audit(
        self, *addresses: Address, first: int | None = None, last: int | None = None, wallet: Any = WALLET
    ) -> Report:
        ports = AuditPorts(node=self.node, state=_State(self.values), accounts=_Batches(self.accounts), published=self)
        scope = Scope(first, last, addresses)
        return await Audit(wallet, ports, scope, lambda *told: self.progress.append(told)).run()

    async def read(self) -> AsyncIterator[Sequence[PublishedRecord]]:
        """Port `PublishedEvents`, with a record that is nobody's."""
        values = [b"garbage", *(record.value for record in self._events())]
        yield [PublishedRecord(0, offset, 0, value) for offset, value in enumerate(values)]

    def _events(self) -> list[Record]:
        published = AddressSet([each.address for each in self.accounts])
        reported = Reported(1, ETH, {lower_hex(TOKEN): TOK}, GAS if self.gas_address else None)
        records: list[Record] = []
        for block in self.chain.blocks:
            moved = [each for sent in block.transactions for each in movements(sent, self.chain.frames(sent, block))]
            logs = [log for log in self.chain.logs(block) if log.address == lower_hex(TOKEN)]
            contents = BlockContents(block, logs, moved)
            hits = hits_of_block(contents, published, reported)
            receipts = {each: self.chain.receipt(each) for each in hits.receipts_wanted}
            for deposit in deposits_of_block(contents, hits, receipts, published, reported):  # type: ignore[arg-type]  # every transaction is on the chain
                if deposit.txid in self.unpublished:
                    continue
                header = block.header
                status = Status(self.statuses.get(deposit.txid or "", "confirmed"))
                said = Announcement(status, deposit, header.number, header.hash, header.timestamp, 1)
                record = announce(said, len(records) + 1, 1, "/test")
                changed = json.loads(record.value or b"") | self.changes.get(deposit.txid or "", {})
                records.append(replace(record, value=json.dumps(changed).encode()))
        return records


@dataclass
class _State:
    values: Mapping[bytes, bytes]

    async def read(self) -> Mapping[bytes, bytes]:
        return self.values


@dataclass
class _Batches:
    accounts: Sequence[PublishedAddress]

    async def read(self) -> AsyncIterator[Sequence[PublishedAddress]]:
        yield self.accounts


def pays(to: Address, value_wei: int) -> Frame:
    return Frame(FrameKind.CALL, 1, lower_hex(CONTRACT), lower_hex(to), value_wei, failed=False)


@pytest.fixture
def world() -> World:
    """A genesis block is there; block 1 is the first that the wallet reads."""
    return World()


def causes(report: Report) -> list[tuple[Cause, Address | None, int | None, int | None]]:
    """Cause, whose, amount and block of each difference."""
    return [
        (
            each.cause,
            Address(bytes.fromhex(each.address[2:])) if each.address else None,
            each.amount,
            each.first_block,
        )
        for each in report.differences
    ]


# --- nothing is wrong ----------------------------------------------------------------------------------------------


async def test_a_wallet_without_a_fault_is_clean(world: World) -> None:
    """Every kind of deposit, of both assets; what lies above the settled block does not matter yet."""
    chain = world.chain
    chain.mine(chain.transfer(ALICE, 5), chain.transfer(BOB, 6, fails=True), withdrawals=[chain.withdrawal(BOB, 3)])
    chain.mine(chain.transfer(CONTRACT, 4, calls=[pays(ALICE, 4)]))
    chain.mine(chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, BOB, 7), transfer_log(TOKEN, ALICE, 8)]))
    chain.mine_empty(SETTLED - 3)
    late = chain.transfer(ALICE, 9)
    world.unpublished.add(late.hash)
    chain.mine(late)
    world.settle()
    report = await world.audit()
    assert report.differences == ()
    told = document(report)
    assert told["clean"]
    assert told["block"] == {"number": SETTLED, "hash": chain.blocks[SETTLED].header.hash}
    assert told["coverage"] == {
        "covered": {"first": 1, "last": SETTLED},
        "buckets_checked": 1,
        "unrecorded": [],
        "unsettled": {"first": SETTLED + 1, "last": SETTLED + 2},
    }
    assert (told["addresses"], told["assets"], told["tokens_unsought"]) == (2, ["ETH", "TOK"], None)
    assert told["events_passed_over"] == 1
    assert summary(report)["differences"] == 0
    json.dumps(told)


async def test_a_range_is_audited_alone(world: World) -> None:
    """What was held before `--from` counts on neither side, and what comes after `--to` is not looked at."""
    chain = world.chain
    chain.mine_empty(3)
    before, after = chain.transfer(ALICE, 5), chain.transfer(ALICE, 7)
    chain.mine(before)
    chain.mine_empty(6)
    chain.mine(chain.transfer(ALICE, 6))
    chain.mine_empty(6)
    chain.mine(after)
    world.settle()
    world.unpublished |= {before.hash, after.hash}
    assert (await world.audit(first=5, last=17)).differences == ()
    assert causes(await world.audit(first=4, last=17)) == [(Cause.NOT_PUBLISHED, ALICE, 5, 4)]
    assert causes(await world.audit(first=5, last=18)) == [(Cause.NOT_PUBLISHED, ALICE, 7, 18)]


async def test_what_was_orphaned_does_not_count(world: World) -> None:
    """The last event of an id is what holds, in whichever order the partitions are read."""
    chain = world.chain
    gone, again = chain.transfer(ALICE, 5), chain.transfer(ALICE, 6)
    chain.mine(gone, again)
    chain.reorganize(1, [[again]])
    world.settle()
    assert (await world.audit()).differences == ()
    world.statuses[again.hash] = "orphaned"
    assert causes(await world.audit()) == [(Cause.NOT_PUBLISHED, ALICE, 6, 1)]


async def test_watched_addresses_are_left_out_unless_they_are_named(world: World) -> None:
    """Their keys are elsewhere, so they may be spent from."""
    chain = world.chain
    chain.mine(chain.transfer(ELSEWHERE, 5))
    chain.mine(chain.transfer(BOB, 2, ELSEWHERE))
    world.accounts.append(PublishedAddress(ELSEWHERE, 0, True))
    world.settle()
    assert (await world.audit()).differences == ()
    assert causes(await world.audit(ELSEWHERE)) == [(Cause.SENT, ELSEWHERE, -2, 2)]
    assert (await world.audit(BOB)).differences == ()


# --- causes ---------------------------------------------------------------------------------------------------------


async def test_a_deposit_that_was_not_published(world: World) -> None:
    """It is named, with its block, amount and transaction, and what to do."""
    chain = world.chain
    chain.mine_empty(20)
    missed = chain.transfer(ALICE, 5)
    chain.mine(missed, chain.transfer(ALICE, 6))
    world.settle()
    world.unpublished.add(missed.hash)
    (difference,) = (await world.audit()).differences
    assert (difference.cause, difference.amount, difference.first_block) == (Cause.NOT_PUBLISHED, 5, 21)
    assert (difference.transactions, difference.asset) == ((missed.hash,), "ETH")
    assert "walletctl sync rescan --from 21" in difference.message


async def test_a_deposit_before_the_asset_or_the_address_was_watched(world: World) -> None:
    """The asset's first block tells, and the time at which the address was published."""
    chain = world.chain
    early = [
        chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, ALICE, 7)]),
        chain.transfer(BOB, 5),
        chain.transfer(ALICE, 6),
    ]
    for each in early:
        chain.mine(each)
    world.unpublished |= {each.hash for each in early}
    world.first_blocks[lower_hex(TOKEN)] = 2
    world.accounts[1] = PublishedAddress(BOB, GENESIS_TIMESTAMP + 3 * BLOCK_SECONDS, False)
    world.settle()
    assert sorted(causes(await world.audit())) == [
        (Cause.BEFORE_WATCH, ALICE, 7, 1),
        (Cause.BEFORE_WATCH, BOB, 5, 2),
        (Cause.NOT_PUBLISHED, ALICE, 6, 3),
    ]


async def test_what_was_published_and_is_not_on_the_chain(world: World) -> None:
    """Another amount, another block: it was credited, so it is the worst."""
    chain = world.chain
    paid, elsewhere = chain.transfer(ALICE, 5), chain.transfer(BOB, 6)
    chain.mine(paid)
    chain.mine(elsewhere)
    world.changes = {
        paid.hash: {"amount": "50", "value": "50"},
        elsewhere.hash: {"block_hash": "0x" + "77" * 32},
    }
    world.settle()
    assert sorted(causes(await world.audit())) == [(Cause.NOT_ON_CHAIN, ALICE, -45, 1)]
    world.changes[elsewhere.hash] = {"event_id": "77" * 32, "amount": "60", "value": "60"}
    assert causes(await world.audit(BOB)) == [(Cause.NOT_ON_CHAIN, BOB, -60, 2), (Cause.NOT_PUBLISHED, BOB, 6, 2)]


async def test_a_settled_deposit_that_was_never_confirmed(world: World) -> None:
    """The balance is right, and still nobody was told to credit."""
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    world.statuses[paid.hash] = "detected"
    world.settle()
    assert causes(await world.audit()) == [(Cause.NOT_CONFIRMED, ALICE, 0, 1)]


async def test_an_address_that_paid(world: World) -> None:
    """In ETH and in tokens: the transactions are named."""
    chain = world.chain
    chain.mine(chain.transfer(ALICE, 5, logs=[transfer_log(TOKEN, ALICE, 9)]))
    spent = chain.transfer(TOKEN, 2, ALICE, logs=[transfer_log(TOKEN, CONTRACT, 4, ALICE)])
    chain.mine_empty(4)
    chain.mine(spent)
    world.settle()
    report = await world.audit()
    assert causes(report) == [(Cause.SENT, ALICE, -2, 6), (Cause.SENT, ALICE, -4, 6)]
    assert {each.transactions for each in report.differences} == {(spent.hash,)}


async def test_what_the_gas_address_paid_is_told_apart(world: World) -> None:
    """By rule it is no deposit."""
    chain = world.chain
    world.gas_address = checksum_address(GAS)
    chain.mine(chain.transfer(ALICE, 3, GAS), chain.transfer(ALICE, 5))
    world.settle()
    assert causes(await world.audit()) == [(Cause.FUNDING, ALICE, 3, 1)]


async def test_what_a_contract_paid_where_nobody_traces(world: World) -> None:
    """With a node that traces the block it is a deposit that was not published; without, the traces are missed."""
    chain = world.chain
    inside = chain.transfer(CONTRACT, 4, calls=[pays(ALICE, 4)])
    chain.mine(inside)
    world.unpublished.add(inside.hash)
    world.settle()
    assert causes(await world.audit()) == [(Cause.NOT_PUBLISHED, ALICE, 4, 1)]
    world.node.has_traces = False
    assert causes(await world.audit()) == [(Cause.TRACES_OFF, ALICE, 4, 1)]
    world.unpublished.clear()
    assert (await world.audit()).differences == ()


async def test_what_nobody_saw_does_not_make_what_was_published_wrong(world: World) -> None:
    """Without traces an event of ETH inside a contract cannot be judged; the rest of its block can."""
    chain = world.chain
    missed = chain.transfer(ALICE, 5)
    chain.mine(chain.transfer(CONTRACT, 4, calls=[pays(ALICE, 4)]), missed)
    world.unpublished.add(missed.hash)
    world.node.has_traces = False
    world.settle()
    assert causes(await world.audit()) == [(Cause.NOT_PUBLISHED, ALICE, 5, 1)]


async def test_a_token_whose_balances_do_not_follow_its_logs(world: World) -> None:
    """Rebasing, for example."""
    world.chain.mine(world.chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, ALICE, 9)]))
    world.node.unlogged[ALICE, 30] = 3
    world.settle()
    assert causes(await world.audit()) == [(Cause.UNLOGGED, ALICE, 3, 30)]


async def test_the_node_is_no_archive(world: World) -> None:
    """The difference is told all the same, with what would find its cause; a young one is found."""
    chain = world.chain
    chain.mine_empty(9)
    old, young = chain.transfer(ALICE, 5), chain.transfer(BOB, 6)
    chain.mine(old)
    chain.mine_empty(20)
    chain.mine(young)
    world.unpublished |= {old.hash, young.hash}
    world.settle()
    world.node.state_from = 20
    report = await world.audit()
    assert causes(report) == [(Cause.UNKNOWN, ALICE, 5, 0), (Cause.UNKNOWN, BOB, 6, 0)]
    assert "an archive node" in report.differences[0].message
    assert "missing trie node" in report.differences[0].message
    assert causes(await world.audit(first=21)) == [(Cause.NOT_PUBLISHED, BOB, 6, 31)]
    world.node.state_from = SETTLED + 1
    with pytest.raises(AuditImpossible, match="archive"):
        await world.audit()


async def test_several_causes_of_one_balance_are_found_up_to_a_limit(world: World) -> None:
    """Each block is named, the rest is one sum, and the message says where to go on."""
    chain = world.chain
    for number in range(CHANGES_MAX + 2):
        missed = chain.transfer(ALICE, 10**number)
        world.unpublished.add(missed.hash)
        chain.mine(missed)
        chain.mine_empty(1)
    world.settle()
    report = await world.audit()
    assert sorted(each.amount or 0 for each in report.differences[:-1]) == [10**n for n in range(CHANGES_MAX)]
    rest = report.differences[-1]
    assert (rest.cause, rest.amount) == (Cause.UNKNOWN, 10**CHANGES_MAX + 10 ** (CHANGES_MAX + 1))
    assert f"--from {2 * CHANGES_MAX}" in rest.message


# --- tokens that are not listed -------------------------------------------------------------------------------------


async def test_a_token_that_is_not_listed(world: World) -> None:
    """Held, it is a difference; received and gone, or never really there, it is none."""
    chain = world.chain
    chain.mine(chain.transfer(SPAM, 0, logs=[transfer_log(SPAM, ALICE, 9), transfer_log(SPAM, BOB, 8)]))
    chain.mine(chain.transfer(SPAM, 0, logs=[transfer_log(SPAM, CONTRACT, 8, BOB)]))
    world.settle()
    world.node.log_blocks_max = 7
    (difference,) = (await world.audit()).differences
    assert (difference.cause, difference.amount) == (Cause.UNKNOWN_TOKEN, 9)
    assert (difference.address, difference.asset) == (checksum_address(ALICE), checksum_address(SPAM))


async def test_where_tokens_cannot_be_looked_for_the_audit_says_so(world: World) -> None:
    """A node that gives no logs, or too many requests."""
    chain = world.chain
    chain.mine(chain.transfer(SPAM, 0, logs=[transfer_log(SPAM, ALICE, 9)]))
    world.settle()
    world.node.log_blocks_max = 0
    report = await world.audit()
    assert report.differences == ()
    assert "too many blocks" in (report.tokens_unsought or "")
    assert "not looked for" in str(summary(report)["unlisted_tokens"])
    assert why_too_many(LOG_REQUESTS_MAX) is None
    assert f"it would take {LOG_REQUESTS_MAX + 1} requests" in (why_too_many(LOG_REQUESTS_MAX + 1) or "")


async def test_causes_are_looked_for_in_some_balances_only(world: World) -> None:
    """Each costs dozens of requests; the others are told all the same, and how to look for theirs."""
    missed = [world.chain.transfer(Address(n.to_bytes(20, "big")), n) for n in range(1, LOCATED_MAX + 3)]
    world.accounts = [PublishedAddress(Address(n.to_bytes(20, "big")), 0, False) for n in range(1, LOCATED_MAX + 3)]
    world.chain.mine(*missed)
    world.unpublished |= {each.hash for each in missed}
    world.settle()
    report = await world.audit(last=3)
    assert [each.cause for each in report.differences] == [Cause.NOT_PUBLISHED] * LOCATED_MAX + [Cause.UNKNOWN] * 2
    last = report.differences[-1]
    assert last.amount == LOCATED_MAX + 2
    assert f"walletctl audit --address {last.address}" in last.message


# --- coverage -------------------------------------------------------------------------------------------------------


async def test_a_digest_of_other_blocks_is_a_difference(world: World) -> None:
    """The bucket is named: nobody can tell which block."""
    world.settle()
    record = json.loads(world.values[covered_key(0)])
    world.values[covered_key(0)] = json.dumps(record | {"digest": "00" * 32}).encode()
    (difference,) = (await world.audit()).differences
    assert (difference.cause, difference.first_block, difference.last_block) == (Cause.WRONG_DIGEST, 1, SETTLED)


async def test_blocks_without_a_record(world: World) -> None:
    """A record that should be there is a difference; one that a rewind deleted is told, and is none."""
    world.first_base = 10
    world.settle()
    record = json.loads(world.values[covered_key(0)])
    assert (await world.audit()).joins.covered is not None
    world.values[covered_key(0)] = json.dumps(record | {"begins": False}).encode()
    assert causes(await world.audit()) == [(Cause.NOT_COVERED, None, None, 0)]
    assert (await world.audit(first=11)).differences == ()
    del world.values[covered_key(0)]
    report = await world.audit()
    assert causes(report) == [(Cause.NOT_COVERED, None, None, 1)]
    assert summary(report)["covered_blocks"] == "none yet"


@pytest.mark.parametrize(("to", "is_told"), [(SETTLED, False), (SETTLED - 1, True)])
async def test_a_record_that_a_rewind_deleted(world: World, to: int, *, is_told: bool) -> None:
    """No block was settled since: that there is no record yet is no difference. Of another rewind it is one."""
    world.orders = OrderBook(1, (OrderState("w1", "rewind", 0, OrderStatus.DONE, from_block=to),))
    world.settle()
    del world.values[covered_key(0)]
    report = await world.audit()
    assert bool(report.differences) == is_told
    assert ("without_record" in summary(report)) != is_told


# --- a node that does not answer at once --------------------------------------------------------------------------


@in_virtual_time
async def test_a_question_is_asked_again() -> None:
    """One answer of "too many requests" among a thousand does not end an audit; what fails for good does."""
    failures = dict.fromkeys(range(0, 1_000, 7), TRIES_MAX - 1)

    async def ask(number: int) -> int:
        if failures.get(number, 0):
            failures[number] -= 1
            raise RpcUnreachable("endpoint 1: HTTP status 429")
        return number

    assert await at_once(ask, range(1_000)) == list(range(1_000))
    failures[5] = TRIES_MAX
    with pytest.raises(RpcUnreachable, match="429"):
        await at_once(ask, range(1_000))


@in_virtual_time
async def test_what_is_declined_is_not_asked_again() -> None:
    """It would be declined again."""
    asked: list[int] = []

    async def ask(number: int) -> None:
        asked.append(number)
        raise NodeDeclined("endpoint 1: missing trie node")

    with pytest.raises(NodeDeclined):
        await at_once(ask, [1])
    assert asked == [1]


@in_virtual_time
async def test_an_audit_outlives_a_node_that_fails_now_and_then() -> None:
    """Every kind of question that it asks fails once, and the cause is found all the same."""
    world = World()
    missed = world.chain.transfer(ALICE, 5)
    world.chain.mine(missed, world.chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, BOB, 7)]))
    world.unpublished.add(missed.hash)
    world.settle()
    world.node = flaky = FlakyNode(world.chain)
    assert causes(await world.audit()) == [(Cause.NOT_PUBLISHED, ALICE, 5, 1)]
    assert flaky.failed >= {"agreed_header", "header", "balance", "token_balance", "tokens_sent", "block"}


# --- what cannot be audited -----------------------------------------------------------------------------------------


async def test_what_is_not_settled_cannot_be_audited(world: World) -> None:
    """It could still be taken back; the message names the newest block that can be."""
    world.settle()
    with pytest.raises(InvalidSetting, match=f"--to: block {SETTLED + 1} is not settled yet.* {SETTLED}"):
        await world.audit(last=SETTLED + 1)
    with pytest.raises(InvalidSetting, match="--from: block 6 is above block 5"):
        await world.audit(first=6, last=5)
    with pytest.raises(InvalidSetting, match=f"--address: {checksum_address(ELSEWHERE)} is no address"):
        await world.audit(ELSEWHERE)


async def test_without_a_checkpoint_there_is_nothing_to_audit(world: World) -> None:
    """The message says what to do."""
    with pytest.raises(AuditImpossible, match="walletctl run -f FILE"):
        await world.audit()


async def test_a_node_on_another_branch_is_not_believed(world: World) -> None:
    """Its balances would be another chain's; and a chain that changes meanwhile proves nothing."""
    world.settle()
    world.chain.reorganize(5)
    with pytest.raises(NodeInconsistent, match=f"another block {SETTLED}"):
        await world.audit()


async def test_a_block_that_changes_while_its_balances_are_read(world: World) -> None:
    """Balances are asked by number, so they may be of another branch's block."""
    world.settle()
    kept = world.node.token_balance

    async def reorganized(contract: str, address: Address, number: int) -> int:
        if world.chain.tip.number == SETTLED + 2:
            world.chain.reorganize(5, [[]] * 8)
        return await kept(contract, address, number)

    world.node.token_balance = reorganized  # type: ignore[method-assign]  # a fake that changes its mind
    with pytest.raises(NodeInconsistent, match="became"):
        await world.audit()


async def test_a_long_audit_says_how_far_it_is(world: World) -> None:
    """Buckets, addresses, logs."""
    world.settle()
    await world.audit()
    assert world.progress == [("buckets of blocks", 0, 1), ("addresses", 0, 2), ("logs of tokens", 0, 1)]
