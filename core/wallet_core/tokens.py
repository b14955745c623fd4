"""Transfers of ERC-20 tokens, as their contracts log them.

**What counts** is the log `Transfer(address indexed from, address indexed to, uint256 value)` of an allow-listed
contract, and nothing else: neither the call that led to it nor the balance afterwards. A token that keeps a fee of each
transfer logs what arrives, or what was sent, as its author pleased; the logged amount is what is reported. A token that
logs a transfer twice reports two. Whoever puts a token on the list vouches for its contract.

**Form** (EIP-20, and the ABI's encoding of events): three topics, the event's own and two addresses, each with twelve
zero bytes before it, and one word of data. An allow-listed contract's log with that first topic and any other form is
*malformed* (ERC-721 has the amount as a fourth topic; some old tokens index nothing): what it means is not guessed. It
is passed over and counted, for it may be a deposit that nobody will ever see reported.

**Identity.** The position is the log's place among *all* logs of its own transaction, which no fork and no node
changes. It is read off the transaction's receipt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wallet_core.addresses import ADDRESS_SIZE, Address
from wallet_core.amounts import BaseUnits
from wallet_core.blocks import Log, Receipt
from wallet_core.errors import NodeInconsistent

TRANSFER_TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""Keccak-256 of `Transfer(address,address,uint256)`."""
_TOPICS = 3
_WORD_HEX = 64
_WORD_LENGTH = 2 + _WORD_HEX
_PADDING = "0x" + "0" * (_WORD_HEX - 2 * ADDRESS_SIZE)
_PADDING_LENGTH = len(_PADDING)
_WORD = re.compile(r"0x[0-9a-f]{64}")
_ADDRESS_WORD = re.compile(r"0x0{24}[0-9a-f]{40}")


@dataclass(frozen=True)
class TokenTransfer:
    """What one `Transfer` log says."""

    log: Log
    sender: Address
    """The zero address where tokens came into being."""
    recipient: Address
    amount: BaseUnits


def recipient_of(log: Log) -> str | None:
    """The recipient, 0x and 40 hex digits, of a log with `TRANSFER_TOPIC`; None where the log is malformed.

    Only lengths and zeros are looked at: of the hundreds in a block almost none pays us, and `read_transfer` reads
    those that do.
    """
    if len(log.topics) != _TOPICS or len(log.data) != _WORD_LENGTH:
        return None
    _, sender, recipient = log.topics
    if sender[:_PADDING_LENGTH] != _PADDING or recipient[:_PADDING_LENGTH] != _PADDING:
        return None
    return "0x" + recipient[_PADDING_LENGTH:]


def read_transfer(log: Log) -> TokenTransfer | None:
    """The transfer that a log with `TRANSFER_TOPIC` tells of; None where it is malformed."""
    if len(log.topics) != _TOPICS or _WORD.fullmatch(log.data) is None:
        return None
    _, sender, recipient = log.topics
    if not (_ADDRESS_WORD.fullmatch(sender) and _ADDRESS_WORD.fullmatch(recipient)):
        return None
    return TokenTransfer(log, _address(sender), _address(recipient), BaseUnits(int(log.data, 16)))


def position_in_transaction(log: Log, receipt: Receipt) -> int:
    """The log's place, from 0, among all logs of its transaction. Raises NodeInconsistent where it is not there."""
    for position, found in enumerate(receipt.logs):
        if found == log:
            return position
    raise NodeInconsistent(
        f"block {log.block_hash} has log {log.index} of transaction {log.transaction_hash}, "
        "but that transaction's receipt has not"
    )


def _address(word: str) -> Address:
    return Address(bytes.fromhex(word[2 + _WORD_HEX - 2 * ADDRESS_SIZE :]))
