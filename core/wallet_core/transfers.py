"""What counts as a deposit: the transfers of a block that pay a published address.

- **A transaction's own value**: ETH to its `to`, or, where it creates a contract, to the contract; if its receipt says
  that it succeeded. Not from the wallet's own gas account: that is funding, which is ETH only.
- **ETH moved inside contracts**, as `traces` finds it, where the node has traces.
- **Tokens** of the list, as `tokens` reads their logs.
- **Withdrawals** from the beacon chain (EIP-4895), which arrive by no transaction, in gwei.

What moves nothing is no deposit: no amount, or from an address to itself.

One transaction may hold several deposits, each with its own identity. A block's deposits stand in the order of its
transactions; within one, its own value, then inner movements, then tokens; withdrawals come last, as in the block.

The search has two steps, for receipts are fetched for hits only: `hits_of_block` says whose receipts are needed,
`deposits_of_block` reads them. A receipt must be of that very block and must not contradict what made it wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wallet_core.addresses import Address, lower_hex, parse_address
from wallet_core.amounts import BaseUnits
from wallet_core.blocks import Block, Header, Log, Receipt, Transaction, Withdrawal
from wallet_core.bloom import check_admitted
from wallet_core.deposits import Deposit, Kind, calculate_event_id, calculate_withdrawal_id
from wallet_core.errors import NodeInconsistent
from wallet_core.matching import AddressSet
from wallet_core.messages import TransactionAsset
from wallet_core.tokens import TokenTransfer, position_in_transaction, read_transfer, recipient_of
from wallet_core.traces import Movement

_TRANSACTION_HASH = re.compile(r"0x[0-9a-f]{64}")
WEI_PER_GWEI = 10**9
WITHDRAWING_A_TOKEN = frozenset({100, 10_200})
"""Chains whose withdrawals pay a token and not the chain's own coin: Gnosis, and its test chain Chiado."""


@dataclass(frozen=True)
class Scope:
    """What is reported of which blocks, as the checkpoint has it."""

    first_blocks: Mapping[str, int]
    """From which block on each asset, by its `key` in the settings, is reported."""
    gas_address: str | None = None
    """Whose transactions' own ETH is funding and no deposit, 0x and 40 hex digits."""


@dataclass(frozen=True)
class Reported:
    """What is reported of one block."""

    chain_id: int
    native: TransactionAsset | None
    """The chain's own coin; None where it is not reported."""
    tokens: Mapping[str, TransactionAsset]
    """By contract, 0x and 40 lower-case hex digits."""
    gas_address: Address | None = None
    """Whose transactions' own ETH is funding."""


@dataclass(frozen=True)
class BlockContents:
    """A block, and what else a node was asked about it."""

    block: Block
    logs: Sequence[Log] = ()
    """The reported tokens' `Transfer` logs, in the block's order."""
    movements: Sequence[Movement] = ()
    """ETH moved inside contracts, in the block's order; nothing where the node has no traces."""


@dataclass(frozen=True)
class Hits:
    """What in a block may be a deposit, before any receipt is read."""

    transactions: Sequence[Transaction] = ()
    creations: Sequence[Transaction] = ()
    """They pay a contract whose address only the receipt tells."""
    movements: Sequence[Movement] = ()
    tokens: Sequence[TokenTransfer] = ()
    withdrawals: Sequence[Withdrawal] = ()
    malformed_logs: Sequence[Log] = ()
    """They may be transfers, in a form that nobody can read for sure."""

    @property
    def receipts_wanted(self) -> Sequence[str]:
        """Hashes of the transactions whose receipts decide, each once."""
        hashes = [each.hash for each in (*self.transactions, *self.creations)]
        hashes += [each.transaction_hash for each in self.movements]
        hashes += [each.log.transaction_hash for each in self.tokens]
        return list(dict.fromkeys(hashes))


def hits_of_block(contents: BlockContents, addresses: AddressSet, reported: Reported) -> Hits:
    """What pays an address of the set. Raises NodeInconsistent where something cannot be read."""
    block = contents.block
    found, malformed = _token_hits(contents.logs, addresses, reported)
    if reported.native is None:
        return Hits(tokens=found, malformed_logs=malformed)

    movements = [each for each in contents.movements if each.sender != each.recipient]
    withdrawals = [] if reported.chain_id in WITHDRAWING_A_TOKEN else [w for w in block.withdrawals if w.amount_gwei]
    return Hits(
        transactions=[
            each for each in addresses.matching_transactions(block.transactions) if _is_payment(each, reported)
        ],
        creations=[
            each
            for each in block.transactions
            if each.to is None and each.value != "0x0" and _is_payment(each, reported)
        ],
        movements=[movements[at] for at in addresses.places([each.recipient for each in movements])],
        tokens=found,
        withdrawals=[withdrawals[at] for at in addresses.places([each.address for each in withdrawals])],
        malformed_logs=malformed,
    )


def deposits_of_block(
    contents: BlockContents,
    hits: Hits,
    receipts: Mapping[str, Receipt],
    addresses: AddressSet,
    reported: Reported,
) -> tuple[Deposit, ...]:
    """The block's deposits in their order.

    `receipts` holds those that the hits want, by transaction hash. Raises NodeInconsistent where one belongs to another
    block, or contradicts the block, a log or a trace, and where a transaction's hash is not of the wire's form.
    """
    header = contents.block.header
    for transaction_hash in hits.receipts_wanted:
        if _TRANSACTION_HASH.fullmatch(transaction_hash) is None:
            raise NodeInconsistent(f"block {header.hash}: a transaction's hash is not 0x and 64 lower-case hex digits")
        _check_receipt(receipts[transaction_hash], transaction_hash, header)
    for transfer in hits.tokens:  # the bloom of a chain without tokens may be empty
        check_admitted(header, receipts[transfer.log.transaction_hash].logs)
    deposits: list[tuple[str, Deposit]] = []
    try:
        if reported.native is not None:
            for transaction in (*hits.transactions, *hits.creations):
                own = _own_value(transaction, receipts[transaction.hash], addresses, reported.chain_id, reported.native)
                deposits += [(transaction.hash, each) for each in own]
            for movement in hits.movements:
                _check_success(receipts[movement.transaction_hash], "its trace says that it moved ETH")
                deposits.append(
                    (movement.transaction_hash, _movement(movement, reported.chain_id, reported.native)),
                )
        for transfer in hits.tokens:
            receipt = receipts[transfer.log.transaction_hash]
            _check_success(receipt, "the block holds a log of it")
            deposits.append((receipt.transaction_hash, _token(transfer, receipt, reported)))
        withdrawn = [
            _withdrawal(each, reported.chain_id, reported.native) for each in hits.withdrawals if reported.native
        ]
    except ValueError as error:
        raise NodeInconsistent(f"block {header.number} {header.hash}: {error}") from error
    return (*_in_order(contents.block, deposits), *withdrawn)


def _token_hits(
    logs: Sequence[Log], addresses: AddressSet, reported: Reported
) -> tuple[list[TokenTransfer], list[Log]]:
    """The transfers to addresses of the set, and the logs that cannot be read."""
    recipients = [(log, recipient_of(log)) for log in logs if log.address in reported.tokens]
    readable = [(log, recipient) for log, recipient in recipients if recipient is not None]
    malformed = [log for log, recipient in recipients if recipient is None]
    found = []
    for at in addresses.places([recipient for _, recipient in readable]):
        log = readable[at][0]
        transfer = read_transfer(log)
        if transfer is None:
            malformed.append(log)
        elif transfer.amount > 0 and transfer.sender != transfer.recipient:
            found.append(transfer)
    return found, malformed


def _is_payment(transaction: Transaction, reported: Reported) -> bool:
    sender = transaction.from_.lower()
    if transaction.to is not None and transaction.to.lower() == sender:
        return False
    return reported.gas_address is None or sender != lower_hex(reported.gas_address)


def _check_receipt(receipt: Receipt, transaction_hash: str, header: Header) -> None:
    if receipt.block_hash != header.hash or receipt.transaction_hash != transaction_hash:
        raise NodeInconsistent(f"the receipt of {transaction_hash} is not of block {header.hash}")


def _check_success(receipt: Receipt, reason: str) -> None:
    if not receipt.succeeded:
        raise NodeInconsistent(f"the receipt of {receipt.transaction_hash} says that it failed, but {reason}")


def _own_value(
    transaction: Transaction, receipt: Receipt, addresses: AddressSet, chain_id: int, asset: TransactionAsset
) -> list[Deposit]:
    if not receipt.succeeded:
        return []
    if transaction.to is None and receipt.contract_address is None:
        raise NodeInconsistent(f"the receipt of {transaction.hash} does not name the contract that it created")
    try:
        recipient = parse_address((transaction.to or receipt.contract_address or "").lower())
        if transaction.to is None and recipient not in addresses:
            return []
        amount = BaseUnits(int(transaction.value, 16))
        deposit = Deposit(
            event_id=calculate_event_id(chain_id, transaction.hash, Kind.TRANSACTION, 0),
            txid=transaction.hash,
            sender=parse_address(transaction.from_.lower()),
            recipient=recipient,
            amount=amount,
            asset=asset,
        )
    except ValueError as error:
        raise NodeInconsistent(f"transaction {transaction.hash}: {error}") from error
    return [deposit] if amount > 0 else []


def _movement(movement: Movement, chain_id: int, asset: TransactionAsset) -> Deposit:
    return Deposit(
        event_id=calculate_event_id(chain_id, movement.transaction_hash, Kind.FRAME, movement.ordinal),
        txid=movement.transaction_hash,
        sender=parse_address(movement.sender),
        recipient=parse_address(movement.recipient),
        amount=BaseUnits(movement.value_wei),
        asset=asset,
    )


def _token(transfer: TokenTransfer, receipt: Receipt, reported: Reported) -> Deposit:
    position = position_in_transaction(transfer.log, receipt)
    return Deposit(
        event_id=calculate_event_id(reported.chain_id, receipt.transaction_hash, Kind.LOG, position),
        txid=receipt.transaction_hash,
        sender=transfer.sender,
        recipient=transfer.recipient,
        amount=transfer.amount,
        asset=reported.tokens[transfer.log.address],
    )


def _withdrawal(withdrawal: Withdrawal, chain_id: int, asset: TransactionAsset) -> Deposit:
    return Deposit(
        event_id=calculate_withdrawal_id(chain_id, withdrawal),
        txid=None,
        sender=None,
        recipient=parse_address(withdrawal.address),
        amount=BaseUnits(withdrawal.amount_gwei * WEI_PER_GWEI),
        asset=asset,
    )


def _in_order(block: Block, deposits: Sequence[tuple[str, Deposit]]) -> list[Deposit]:
    """By transaction; those of one transaction stay as they stand. Raises NodeInconsistent for one not of the block."""
    if not deposits:
        return []
    places = {transaction.hash: place for place, transaction in enumerate(block.transactions)}
    for transaction_hash, _ in deposits:
        if transaction_hash not in places:
            raise NodeInconsistent(f"transaction {transaction_hash} is not in block {block.header.hash}")
    return [deposit for _, deposit in sorted(deposits, key=lambda each: places[each[0]])]
