"""Hashes of headers, transactions and receipts, against answers that geth gave and vectors that EIPs print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rlp
from coincurve import PrivateKey
from eth_hash.backends.pycryptodome import keccak256

from wallet_workers.adapters.commitments import (
    Forged,
    SealedHeader,
    SealedReceipt,
    SealedTransaction,
    SealedWithdrawal,
    bytes_hash,
    created_contract,
    header_hash,
    receipt_bytes,
    transaction_bytes,
    transaction_sender,
    trie_root,
    withdrawal_bytes,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "execution_apis_vectors.json").read_text())
EMPTY_ROOT = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
MAINNET_GENESIS = {
    "hash": "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3",
    "parentHash": "0x" + "00" * 32,
    "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
    "miner": "0x" + "00" * 20,
    "stateRoot": "0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544",
    "transactionsRoot": EMPTY_ROOT,
    "receiptsRoot": EMPTY_ROOT,
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x400000000",
    "number": "0x0",
    "gasLimit": "0x1388",
    "gasUsed": "0x0",
    "timestamp": "0x0",
    "extraData": "0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa",
    "mixHash": "0x" + "00" * 32,
    "nonce": "0x0000000000000042",
}
HEADERS = {**VECTORS["headers"], "mainnet-genesis": MAINNET_GENESIS}
EIP_155 = {
    "hash": "0x33469b22e9f636356c4160a87eb19df52b7412e8eac32a4a55ffe88ea8350788",
    "from": "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f",
    "nonce": "0x9",
    "gasPrice": hex(20 * 10**9),
    "gas": hex(21_000),
    "to": "0x" + "35" * 20,
    "value": hex(10**18),
    "input": "0x",
    "v": "0x25",
    "r": hex(18515461264373351373200002665853028612451056578545711640558177340181847433846),
    "s": hex(46948507304638947509940763649030358759909902576025900602547168820602576006531),
}
EIP_155_SIGNED = (
    "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe53"
    "7567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
)
TRANSACTIONS = VECTORS["transactions"]


def header(given: dict[str, Any]) -> SealedHeader:
    return msgspec.convert(given, SealedHeader)


def transaction(given: dict[str, Any]) -> SealedTransaction:
    return msgspec.convert(given, SealedTransaction)


def flipped(text: str) -> str:
    """The same hex text with another last digit."""
    return text[:-1] + ("1" if text[-1] != "1" else "2")


@pytest.mark.parametrize("name", HEADERS)
def test_a_headers_hash_is_the_blocks(name: str) -> None:
    """Every fork's header: mainnet's first, London, the Merge, Shanghai, Cancun, Prague."""
    found = header(HEADERS[name])
    assert header_hash(found) == found.hash


@pytest.mark.parametrize("name", HEADERS)
def test_no_field_of_a_header_can_be_changed_unseen(name: str) -> None:
    """Each field that there is, but the hash itself, changes the hash; so does leaving out one that a fork added."""
    given = {each: HEADERS[name][each] for each in _wire_names(SealedHeader) if HEADERS[name].get(each) is not None}
    honest = given.pop("hash")
    for changed, value in given.items():
        if value != "0x":
            forged = header({**given, "hash": honest, changed: flipped(value)})
            assert header_hash(forged) != honest, changed


def _wire_names(kind: type[msgspec.Struct]) -> list[str]:
    return [each.encode_name for each in msgspec.structs.fields(kind)]


def test_fields_of_a_later_fork_without_an_earlier_ones_belong_to_no_header() -> None:
    """Otherwise two different headers could be written alike."""
    prague = dict(VECTORS["headers"]["get-block-prague-fork"])
    del prague["withdrawalsRoot"]
    with pytest.raises(Forged, match="later fork"):
        header_hash(header(prague))


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_a_transactions_hash_and_sender_follow_from_its_fields(name: str) -> None:
    """Legacy, access list, dynamic fee, blob and set-code, as geth gave them."""
    given = transaction(TRANSACTIONS[name])
    assert bytes_hash(transaction_bytes(given)) == given.hash
    assert transaction_sender(given) == given.from_


def test_the_example_of_eip_155() -> None:
    """The EIP prints the signed transaction and its sender."""
    given = transaction(EIP_155)
    assert transaction_bytes(given).hex() == EIP_155_SIGNED
    assert transaction_sender(given) == given.from_


def test_a_transaction_without_a_chain_id_has_a_sender_too() -> None:
    """Before EIP-155 six fields were signed, and v is 27 or 28."""
    key = PrivateKey(b"\x46" * 32)
    fields = [b"\x09", b"\x04\xa8\x17\xc8\x00", b"\x52\x08", b"\x35" * 20, b"\x01", b""]
    signature = key.sign_recoverable(keccak256(rlp.encode(fields)), hasher=None)
    signed = {
        **EIP_155,
        "value": "0x1",
        "v": hex(27 + signature[64]),
        "r": hex(int.from_bytes(signature[:32], "big")),
        "s": hex(int.from_bytes(signature[32:64], "big")),
    }
    assert transaction_sender(transaction(signed)) == EIP_155["from"]


@pytest.mark.parametrize("name", TRANSACTIONS)
@pytest.mark.parametrize("changed", ["value", "to", "nonce", "input", "gas", "r", "s"])
def test_no_field_of_a_transaction_can_be_changed_unseen(name: str, changed: str) -> None:
    """What was signed is what is hashed."""
    given = TRANSACTIONS[name]
    changed_value = flipped(given[changed]) if given.get(changed) not in (None, "0x") else "0x" + "11" * 20
    assert bytes_hash(transaction_bytes(transaction({**given, changed: changed_value}))) != given["hash"]


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("to", "0x" + "AB" * 20),
        ("to", "0x35 35"),
        ("input", "0x1"),
        ("value", "0x"),
        ("value", "0x1_0"),
        ("value", "-0x1"),
        ("value", "12"),
        ("type", "0x7e"),
        ("v", None),
    ],
)
def test_what_is_written_in_another_form_is_refused(changed: str, value: str | None) -> None:
    """Capitals, blanks and half bytes could be read as something else than what was hashed; unknown types are told."""
    with pytest.raises(Forged):
        transaction_bytes(transaction({**EIP_155, changed: value}))


@pytest.mark.parametrize(("changed", "value"), [("r", "0x0"), ("v", "0x0"), ("v", "0x1d"), ("s", "0x" + "ff" * 32)])
def test_a_signature_that_nobody_can_have_made_is_refused(changed: str, value: str) -> None:
    """A sender is only who can be recovered."""
    with pytest.raises(Forged):
        transaction_sender(transaction({**EIP_155, changed: value}))


@pytest.mark.parametrize("name", VECTORS["blocks"])
def test_the_roots_of_a_block_follow_from_what_it_holds(name: str) -> None:
    """Transactions and receipts, each under its index; order and completeness matter."""
    block, receipts = VECTORS["blocks"][name]["block"], VECTORS["blocks"][name]["receipts"]
    transactions = [transaction_bytes(transaction(each)) for each in block["transactions"]]
    assert trie_root(transactions) == block["transactionsRoot"]
    assert trie_root(transactions[::-1]) != block["transactionsRoot"]
    assert trie_root(transactions[:-1]) != block["transactionsRoot"]
    written = [receipt_bytes(msgspec.convert(each, SealedReceipt)) for each in receipts]
    assert trie_root(written) == block["receiptsRoot"]


def test_the_withdrawals_root_follows_from_the_withdrawals() -> None:
    """Recorded from Shanghai's first block."""
    block = VECTORS["headers"]["get-block-shanghai-fork"]
    written = [withdrawal_bytes(msgspec.convert(each, SealedWithdrawal)) for each in block["withdrawals"]]
    assert written
    assert trie_root(written) == block["withdrawalsRoot"]
    raised = [{**each, "amount": hex(int(each["amount"], 16) + 1)} for each in block["withdrawals"]]
    assert (
        trie_root([withdrawal_bytes(msgspec.convert(each, SealedWithdrawal)) for each in raised])
        != (block["withdrawalsRoot"])
    )


def test_an_empty_trie_has_the_known_root() -> None:
    """The Keccak-256 of the RLP of nothing."""
    assert trie_root([]) == EMPTY_ROOT


def test_a_created_contracts_address_follows_from_sender_and_nonce() -> None:
    """The well-known example: the first four contracts of 0x6ac7ea33…"""
    sender = "0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"
    assert [created_contract(sender, hex(nonce)) for nonce in range(3)] == [
        "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d",
        "0x343c43a37d37dff08ae8c4a11544c718abb4fcf8",
        "0xf778b86fa74e846c4f0a1fbd1335fe81c00a0c91",
    ]
