"""How a token's log is read, and what is left alone."""

from __future__ import annotations

import msgspec
import pytest
from eth_hash.backends.pycryptodome import keccak256
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address
from wallet_core.blocks import Log, Receipt
from wallet_core.errors import NodeInconsistent
from wallet_core.tokens import TRANSFER_TOPIC, position_in_transaction, read_transfer, recipient_of

BLOCK, HASH = "0x" + "b1" * 32, "0x" + "7a" * 32
TOKEN = "0x" + "c0" * 20
ALICE, BOB = Address(b"\xa1" * 20), Address(b"\xb0" * 20)


def word(address: Address) -> str:
    return "0x" + "00" * 12 + address.hex()


def log(*topics: str, data: str = f"0x{7:064x}", index: int = 3) -> Log:
    return Log(TOKEN, topics, data, BLOCK, HASH, index)


TRANSFER = log(TRANSFER_TOPIC, word(ALICE), word(BOB))


def test_the_topic_is_the_hash_of_the_events_signature() -> None:
    """EIP-20's Transfer, by the ABI's rule."""
    assert "0x" + keccak256(b"Transfer(address,address,uint256)").hex() == TRANSFER_TOPIC


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=20, max_size=20), st.integers(0, 2**256 - 1))
def test_a_transfer_is_read_as_it_was_logged(sender: bytes, recipient: bytes, amount: int) -> None:
    """Any addresses, the zero address too, and any amount."""
    written = log(TRANSFER_TOPIC, word(Address(sender)), word(Address(recipient)), data=f"0x{amount:064x}")
    read = read_transfer(written)
    assert read is not None
    assert recipient_of(written) == "0x" + recipient.hex()
    assert (read.log, read.sender, read.recipient, read.amount) == (written, sender, recipient, amount)


@pytest.mark.parametrize(
    "malformed",
    [
        log(TRANSFER_TOPIC, word(ALICE), word(BOB), "0x" + "00" * 32, data="0x"),
        log(TRANSFER_TOPIC, data="0x" + "00" * 96),
        log(TRANSFER_TOPIC, word(ALICE), data="0x" + "00" * 64),
        log(TRANSFER_TOPIC, word(ALICE), word(BOB), data="0x" + "00" * 31),
        log(TRANSFER_TOPIC, word(ALICE), word(BOB), data="0x" + "00" * 33),
        log(TRANSFER_TOPIC, word(ALICE), word(BOB), data="0x"),
        log(TRANSFER_TOPIC, word(ALICE), "0x" + "01" * 12 + BOB.hex()),
        log(TRANSFER_TOPIC, "0x" + "01" * 12 + ALICE.hex(), word(BOB)),
    ],
    ids=["ERC-721", "nothing indexed", "one indexed", "short", "long", "no data", "dirty recipient", "dirty sender"],
)
def test_any_other_form_is_not_guessed_at(malformed: Log) -> None:
    """None, for whoever calls to count; no error, for one token must not stop the wallet."""
    assert read_transfer(malformed) is None
    assert recipient_of(malformed) is None


def test_the_position_is_among_all_logs_of_the_transaction() -> None:
    """Also those of other contracts and kinds; the block's own numbering plays no part."""
    others = [msgspec.structs.replace(TRANSFER, index=index, address="0x" + "0c" * 20) for index in (1, 2)]
    receipt = Receipt(HASH, BLOCK, succeeded=True, logs=(*others, TRANSFER))
    assert position_in_transaction(TRANSFER, receipt) == 2


def test_equal_logs_have_different_positions() -> None:
    """A token that logs twice."""
    twin = msgspec.structs.replace(TRANSFER, index=4)
    receipt = Receipt(HASH, BLOCK, succeeded=True, logs=(TRANSFER, twin))
    assert [position_in_transaction(each, receipt) for each in (TRANSFER, twin)] == [0, 1]


def test_a_log_that_its_receipt_lacks_is_a_contradiction() -> None:
    """Even one that differs in the amount alone."""
    other = msgspec.structs.replace(TRANSFER, data=f"0x{8:064x}")
    with pytest.raises(NodeInconsistent, match=HASH):
        position_in_transaction(TRANSFER, Receipt(HASH, BLOCK, succeeded=True, logs=(other,)))
