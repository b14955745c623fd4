"""What counts as a deposit, of each kind, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from wallet_core.addresses import Address, checksum_address, lower_hex
from wallet_core.amounts import BaseUnits
from wallet_core.blocks import Block, Frame, FrameKind, Header, Log, Receipt, Transaction, Withdrawal
from wallet_core.bloom import bloom_of
from wallet_core.deposits import Deposit, Kind, calculate_event_id, calculate_withdrawal_id
from wallet_core.errors import NodeInconsistent
from wallet_core.matching import AddressSet
from wallet_core.messages import TransactionAsset
from wallet_core.testing.fake_chain import FakeChain, created_by, transfer_log
from wallet_core.tokens import TRANSFER_TOPIC
from wallet_core.traces import movements
from wallet_core.transfers import BlockContents, Reported, deposits_of_block, hits_of_block

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
TOKEN = Address(b"\xc0" * 20)
TOK = TransactionAsset(symbol="TOK", contract=checksum_address(TOKEN), decimals=6)
ALICE, BOB, GAS, STRANGER = (Address(bytes([each]) * 20) for each in (0xA1, 0xB0, 0x6A, 0x57))
ALL = Reported(1, ETH, {lower_hex(TOKEN): TOK}, GAS)
PUBLISHED = AddressSet([ALICE, BOB])


def found(
    chain: FakeChain,
    block: Block,
    reported: Reported = ALL,
    published: AddressSet = PUBLISHED,
    *,
    traced: bool = True,
    receipts: dict[str, Receipt] | None = None,
) -> tuple[Deposit, ...]:
    """The deposits of a block of the fake chain."""
    logs = [log for log in chain.logs(block) if log.address in reported.tokens and log.topics[0] == TRANSFER_TOPIC]
    moved = (
        [each for sent in block.transactions for each in movements(sent, chain.frames(sent, block))] if traced else []
    )
    contents = BlockContents(block, logs, moved)
    hits = hits_of_block(contents, published, reported)
    known: dict[str, Receipt] = {}
    for wanted in hits.receipts_wanted:
        receipt = chain.receipt(wanted)
        assert receipt is not None
        known[wanted] = receipt
    return deposits_of_block(contents, hits, known | (receipts or {}), published, reported)


def one(chain: FakeChain, *transactions: Transaction, **options: Any) -> tuple[Deposit, ...]:
    return found(chain, chain.mine(*transactions), **options)


def paid(deposits: Sequence[Deposit]) -> list[tuple[str, Address, int]]:
    return [(each.asset.symbol, each.recipient, each.amount) for each in deposits]


def inner(to: Address, value_wei: int, sender: Address = TOKEN) -> Frame:
    return Frame(FrameKind.CALL, 1, lower_hex(sender), lower_hex(to), value_wei, failed=False)


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain(chain_id=1)


# --- a transaction's own value -----------------------------------------------------------------------------------


def test_a_transfer_that_succeeded_is_a_deposit(chain: FakeChain) -> None:
    """Sender, recipient, amount and transaction are those of the chain."""
    transaction = chain.transfer(ALICE, 10**18, STRANGER)
    event_id = calculate_event_id(1, transaction.hash, Kind.TRANSACTION, 0)
    deposit = Deposit(event_id, transaction.hash, STRANGER, ALICE, BaseUnits(10**18), ETH)
    assert one(chain, transaction) == (deposit,)


def test_what_moves_nothing_to_us_is_no_deposit(chain: FakeChain) -> None:
    """To a stranger, of nothing, from an address to itself, or failed."""
    assert (
        one(
            chain,
            chain.transfer(STRANGER, 5),
            chain.transfer(ALICE, 0),
            chain.transfer(ALICE, 5, ALICE),
            chain.transfer(ALICE, 5, fails=True),
        )
        == ()
    )


def test_what_the_gas_account_sends_is_no_deposit(chain: FakeChain) -> None:
    """It is the wallet's own funding; what a contract pays in its transaction is none, and counts."""
    funding = chain.transfer(ALICE, 5, GAS, calls=[inner(BOB, 7)], logs=[transfer_log(TOKEN, ALICE, 9)])
    assert paid(one(chain, funding)) == [("ETH", BOB, 7), ("TOK", ALICE, 9)]


def test_a_creation_pays_the_contract_that_its_receipt_names(chain: FakeChain) -> None:
    """`to` is null; only the receipt tells who was paid."""
    creation = chain.transfer(None, 5, STRANGER)
    block = chain.mine(creation)
    contract = Address(bytes.fromhex(created_by(creation)[2:]))
    assert found(chain, block) == ()
    (deposit,) = found(chain, block, published=AddressSet([contract]))
    assert (deposit.recipient, deposit.amount) == (contract, 5)
    assert deposit.event_id == calculate_event_id(1, creation.hash, Kind.TRANSACTION, 0)


def test_a_failed_creation_and_one_of_nothing_pay_nobody(chain: FakeChain) -> None:
    """Nor does one by the gas account."""
    creations = [chain.transfer(None, 5, fails=True), chain.transfer(None, 0), chain.transfer(None, 5, GAS)]
    published = AddressSet([Address(bytes.fromhex(created_by(each)[2:])) for each in creations])
    assert one(chain, *creations, published=published) == ()


def test_a_creation_whose_receipt_names_no_contract_is_a_contradiction(chain: FakeChain) -> None:
    """Never read as "nobody was paid"."""
    creation = chain.transfer(None, 5)
    block = chain.mine(creation)
    nameless = Receipt(creation.hash, block.header.hash, succeeded=True)
    with pytest.raises(NodeInconsistent, match=creation.hash):
        found(chain, block, receipts={creation.hash: nameless})


# --- other kinds --------------------------------------------------------------------------------------------------


def test_what_a_contract_pays_is_a_deposit(chain: FakeChain) -> None:
    """From the contract, with the frame's place in the id."""
    transaction = chain.transfer(TOKEN, 9, calls=[inner(STRANGER, 2), inner(ALICE, 7)])
    (deposit,) = one(chain, transaction)
    assert (deposit.sender, deposit.recipient, deposit.amount) == (TOKEN, ALICE, 7)
    assert (deposit.txid, deposit.event_id) == (
        transaction.hash,
        calculate_event_id(1, transaction.hash, Kind.FRAME, 1),
    )


def test_without_traces_what_contracts_pay_is_not_seen(chain: FakeChain) -> None:
    """All else is."""
    transaction = chain.transfer(ALICE, 9, calls=[inner(BOB, 7)])
    assert paid(one(chain, transaction, traced=False)) == [("ETH", ALICE, 9)]


def test_a_tokens_transfer_is_a_deposit(chain: FakeChain) -> None:
    """From whom the log names; the place is that among all logs of the transaction."""
    other = Address(b"\x0c" * 20)
    first = chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, STRANGER, 1)])
    logs = [transfer_log(other, ALICE, 1), transfer_log(TOKEN, ALICE, 7, STRANGER)]
    (deposit,) = one(chain, first, chain.transfer(TOKEN, 0, logs=logs))
    assert (deposit.sender, deposit.recipient, deposit.amount, deposit.asset) == (STRANGER, ALICE, 7, TOK)
    assert deposit.event_id == calculate_event_id(1, str(deposit.txid), Kind.LOG, 1)


def test_a_tokens_transfer_of_nothing_or_to_itself_is_no_deposit(chain: FakeChain) -> None:
    """Anybody can make a token log such a transfer from anywhere ("address poisoning")."""
    logs = [transfer_log(TOKEN, ALICE, 0), transfer_log(TOKEN, ALICE, 7, ALICE)]
    assert one(chain, chain.transfer(TOKEN, 0, logs=logs)) == ()


def test_malformed_logs_are_told_and_do_no_harm(chain: FakeChain) -> None:
    """They take their places among the logs, and are no deposits."""
    odd = (TOKEN, (TRANSFER_TOPIC,), "0x" + "00" * 96)
    block = chain.mine(chain.transfer(TOKEN, 0, logs=[odd, transfer_log(TOKEN, ALICE, 7)]))
    hits = hits_of_block(BlockContents(block, chain.logs(block)), PUBLISHED, ALL)
    assert [log.index for log in hits.malformed_logs] == [0]
    (deposit,) = found(chain, block)
    assert deposit.event_id == calculate_event_id(1, block.transactions[0].hash, Kind.LOG, 1)


def test_a_withdrawal_is_a_deposit_without_transaction(chain: FakeChain) -> None:
    """Gwei become wei; a withdrawal of nothing, or to a stranger, is none."""
    withdrawals = [chain.withdrawal(STRANGER, 5), chain.withdrawal(ALICE, 0), chain.withdrawal(ALICE, 18_250_123)]
    block = chain.mine(withdrawals=withdrawals)
    (deposit,) = found(chain, block)
    assert (deposit.txid, deposit.sender, deposit.recipient) == (None, None, ALICE)
    assert (deposit.amount, deposit.asset) == (18_250_123 * 10**9, ETH)
    assert deposit.event_id == calculate_withdrawal_id(1, withdrawals[2])


@pytest.mark.parametrize("chain_id", [100, 10_200])
def test_where_withdrawals_pay_a_token_they_are_no_deposits_of_the_coin(chain_id: int) -> None:
    """Gnosis pays GNO, by a contract: to report xDAI would credit what nobody paid."""
    chain = FakeChain(chain_id)
    block = chain.mine(withdrawals=[chain.withdrawal(ALICE, 5)])
    assert found(chain, block, Reported(chain_id, ETH, {})) == ()


def test_what_is_not_reported_is_no_deposit(chain: FakeChain) -> None:
    """A wallet of tokens only sees no ETH of any kind; one of ETH only sees no token."""
    sent = chain.transfer(ALICE, 1, calls=[inner(ALICE, 2)], logs=[transfer_log(TOKEN, ALICE, 3)])
    block = chain.mine(sent, withdrawals=[chain.withdrawal(ALICE, 4)])
    assert paid(found(chain, block, Reported(1, None, ALL.tokens))) == [("TOK", ALICE, 3)]
    assert [amount for _, _, amount in paid(found(chain, block, Reported(1, ETH, {})))] == [1, 2, 4 * 10**9]
    assert found(chain, block, Reported(1, None, {})) == ()


# --- order and identity -------------------------------------------------------------------------------------------


def test_deposits_stand_in_the_blocks_order(chain: FakeChain) -> None:
    """By transaction; within one: its own value, inner movements, tokens. Withdrawals come last."""
    first = chain.transfer(STRANGER, 0, logs=[transfer_log(TOKEN, ALICE, 1), transfer_log(TOKEN, BOB, 2)])
    second = chain.transfer(ALICE, 3, calls=[inner(BOB, 4), inner(ALICE, 5)], logs=[transfer_log(TOKEN, ALICE, 6)])
    third = chain.transfer(BOB, 7)
    block = chain.mine(first, second, third, withdrawals=[chain.withdrawal(ALICE, 8)])
    assert [each.amount for each in found(chain, block)] == [1, 2, 3, 4, 5, 6, 7, 8 * 10**9]


def test_all_deposits_of_one_transaction_have_ids_of_their_own(chain: FakeChain) -> None:
    """Its own value, movements and logs with the same place among their kind."""
    sent = chain.transfer(
        ALICE,
        1,
        calls=[inner(ALICE, 1), inner(ALICE, 1)],
        logs=[transfer_log(TOKEN, ALICE, 1), transfer_log(TOKEN, ALICE, 1)],
    )
    deposits = one(chain, sent)
    assert len({each.event_id for each in deposits}) == len(deposits) == 5


def test_after_a_fork_the_same_transfers_keep_their_ids(chain: FakeChain) -> None:
    """In another block, at another place, with other logs before them: one story each."""
    sent = chain.transfer(ALICE, 1, calls=[inner(ALICE, 2)], logs=[transfer_log(TOKEN, ALICE, 3)])
    withdrawal = chain.withdrawal(ALICE, 4)
    before = found(chain, chain.mine(sent, withdrawals=[withdrawal]))
    chain.roll_back(1)
    other = chain.transfer(BOB, 9, logs=[transfer_log(TOKEN, BOB, 9)])
    after = found(chain, chain.mine(other, sent, withdrawals=[withdrawal]))
    assert before == tuple(each for each in after if each.recipient == ALICE)
    assert len(before) == 4


# --- contradictions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("succeeded", [True, False])
@pytest.mark.parametrize("field", ["block_hash", "transaction_hash"])
def test_a_receipt_of_something_else_is_never_read_as_a_verdict(field: str, succeeded: bool, chain: FakeChain) -> None:
    """Success there says nothing here, and failure there must not hide a deposit here."""
    sent = chain.transfer(ALICE, 5)
    block = chain.mine(sent)
    receipt = msgspec.structs.replace(
        Receipt(sent.hash, block.header.hash, succeeded=succeeded), **{field: "0x" + "b2" * 32}
    )
    with pytest.raises(NodeInconsistent, match=sent.hash):
        found(chain, block, receipts={sent.hash: receipt})


@pytest.mark.parametrize("kind", ["movement", "token"])
def test_a_receipt_that_denies_what_was_seen_is_a_contradiction(kind: str, chain: FakeChain) -> None:
    """A failed transaction has neither movements nor logs."""
    if kind == "movement":
        sent = chain.transfer(STRANGER, 5, calls=[inner(ALICE, 5)])
    else:
        sent = chain.transfer(STRANGER, 0, logs=[transfer_log(TOKEN, ALICE, 5)])
    block = chain.mine(sent)
    receipt = chain.receipt(sent.hash)
    assert receipt is not None
    with pytest.raises(NodeInconsistent, match="failed"):
        found(chain, block, receipts={sent.hash: msgspec.structs.replace(receipt, succeeded=False)})


def test_a_log_that_its_receipt_lacks_is_a_contradiction(chain: FakeChain) -> None:
    """One of the two answers is wrong."""
    sent = chain.transfer(STRANGER, 0, logs=[transfer_log(TOKEN, ALICE, 5)])
    block = chain.mine(sent)
    bare = Receipt(sent.hash, block.header.hash, succeeded=True)
    with pytest.raises(NodeInconsistent, match=sent.hash):
        found(chain, block, receipts={sent.hash: bare})


def test_a_receipt_whose_logs_the_bloom_excludes_is_a_contradiction(chain: FakeChain) -> None:
    """Where a token's transfer is among them: the header stands for all logs of its block."""
    sent = chain.transfer(STRANGER, 0, logs=[transfer_log(TOKEN, ALICE, 5)])
    block = chain.mine(sent)
    stray = Log(lower_hex(STRANGER), (TRANSFER_TOPIC,), "0x", block.header.hash, sent.hash, 1)
    receipt = Receipt(sent.hash, block.header.hash, succeeded=True, logs=(*chain.logs(block), stray))
    with pytest.raises(NodeInconsistent, match="bloom"):
        found(chain, block, receipts={sent.hash: receipt})


def test_eth_is_reported_where_the_node_leaves_the_bloom_empty(chain: FakeChain) -> None:
    """Such a chain cannot have tokens; a payment whose transaction logs something must not stop its wallet."""
    sent = chain.transfer(ALICE, 5)
    block = chain.mine(sent)
    log = Log(lower_hex(STRANGER), (TRANSFER_TOPIC,), "0x", block.header.hash, sent.hash, 0)
    receipt = Receipt(sent.hash, block.header.hash, succeeded=True, logs=(log,))
    assert paid(found(chain, block, receipts={sent.hash: receipt})) == [("ETH", ALICE, 5)]


def test_what_names_a_transaction_outside_the_block_is_a_contradiction() -> None:
    """A log of the block by a transaction that the block does not hold."""
    elsewhere = "0x" + "ee" * 32
    contract, topics, data = transfer_log(TOKEN, ALICE, 5)
    log = Log(lower_hex(contract), topics, data, "0x" + "b1" * 32, elsewhere, 0)
    header = Header(1, log.block_hash, "0x" + "b0" * 32, 0, bloom_of([log]))
    contents = BlockContents(Block(header), [log])
    hits = hits_of_block(contents, PUBLISHED, ALL)
    receipt = Receipt(elsewhere, header.hash, succeeded=True, logs=(log,))
    with pytest.raises(NodeInconsistent, match="not in block"):
        deposits_of_block(contents, hits, {elsewhere: receipt}, PUBLISHED, ALL)


@pytest.mark.parametrize("change", [{"value": "ten"}, {"value": ""}, {"to": "0x12"}, {"from_": "nobody"}], ids=str)
def test_a_transaction_that_cannot_be_read_stops_the_block(change: dict[str, str], chain: FakeChain) -> None:
    """It is the node's contradiction, never "no deposit"."""
    sent = msgspec.structs.replace(chain.transfer(ALICE, 5), **change)
    block = chain.mine(sent)
    with pytest.raises(NodeInconsistent):
        found(chain, block, traced=False)


def test_a_withdrawal_that_cannot_be_read_stops_the_block(chain: FakeChain) -> None:
    """Likewise."""
    block = chain.mine(withdrawals=[Withdrawal(1, 1, "0x12", 5)])
    with pytest.raises(NodeInconsistent):
        found(chain, block)


@pytest.mark.parametrize("kind", ["payment", "token"])
@pytest.mark.parametrize(
    "malformed", ["0x" + "AB" * 32, "0X" + "ab" * 32, "0x" + "zz" * 32, "0x" + "ab" * 31, "\u0661" * 66]
)
def test_a_hash_that_is_none_stops_the_block(malformed: str, kind: str, chain: FakeChain) -> None:
    """It would become another event id, or an event that no reader can read."""
    sent = (
        chain.transfer(ALICE, 1)
        if kind == "payment"
        else chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, ALICE, 1)])
    )
    block = chain.mine(sent)
    receipt, logs = chain.receipt(sent.hash), list(chain.logs(block))
    assert receipt is not None
    renamed = Block(block.header, (msgspec.structs.replace(sent, hash=malformed),))
    contents = BlockContents(renamed, [msgspec.structs.replace(log, transaction_hash=malformed) for log in logs])
    hits = hits_of_block(contents, PUBLISHED, ALL)
    assert list(hits.receipts_wanted) == [malformed]
    receipts = {malformed: msgspec.structs.replace(receipt, transaction_hash=malformed)}
    with pytest.raises(NodeInconsistent, match=block.header.hash):
        deposits_of_block(contents, hits, receipts, PUBLISHED, ALL)
