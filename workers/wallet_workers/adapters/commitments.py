"""What a block's hash stands for: header, transactions, receipts and withdrawals, written as Ethereum hashes them.

A block's hash is the Keccak-256 of its header's RLP (Yellow Paper, 4.3). The header holds the roots of three Merkle
Patricia tries, of the block's transactions, receipts and withdrawals, each under the RLP of its index. So who knows the
hash can check everything else that a node says of the block:

- headers of every fork up to Osaka: legacy, London (EIP-1559, base fee), Shanghai (EIP-4895, withdrawals), Cancun
  (EIP-4844 and EIP-4788), Prague (EIP-7685, requests). Each fork appends fields, so a field that is there after one
  that is not belongs to no header;
- transactions: legacy without and with a chain id (EIP-155), EIP-2930, EIP-1559, EIP-4844, EIP-7702. The sender is in
  none of them: it is recovered from the signature;
- receipts: the same types (EIP-658, EIP-2718).

All functions are pure. What cannot be written so, for it has another form, raises Forged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import rlp
from coincurve import PublicKey
from eth_hash.backends.pycryptodome import keccak256
from trie.hexary import HexaryTrie

_LEGACY, _EIP_2930, _EIP_1559, _EIP_4844, _EIP_7702 = range(5)
_ADDRESS_BYTES = 20
_QUANTITY = re.compile(r"0x[0-9a-f]{1,64}")
_V_WITHOUT_CHAIN = 27
_V_WITH_CHAIN = 35

Rlp = bytes | Sequence["Rlp"]


class Forged(Exception):
    """Something is not what it should be the hash of, or has a form that no hash stands for."""


class SealedHeader(msgspec.Struct, rename="camel", gc=False):
    """Every field of a header, as a node gives it."""

    hash: str
    parent_hash: str
    sha3_uncles: str
    miner: str
    state_root: str
    transactions_root: str
    receipts_root: str
    logs_bloom: str
    difficulty: str
    number: str
    gas_limit: str
    gas_used: str
    timestamp: str
    extra_data: str
    mix_hash: str
    nonce: str
    base_fee_per_gas: str | None = None
    withdrawals_root: str | None = None
    blob_gas_used: str | None = None
    excess_blob_gas: str | None = None
    parent_beacon_block_root: str | None = None
    requests_hash: str | None = None


class Access(msgspec.Struct, rename="camel", gc=False):
    """An entry of an access list (EIP-2930)."""

    address: str
    storage_keys: tuple[str, ...]


class Authorization(msgspec.Struct, rename="camel", gc=False):
    """An entry of an authorization list (EIP-7702)."""

    chain_id: str
    address: str
    nonce: str
    r: str
    s: str
    y_parity: str


class SealedTransaction(
    msgspec.Struct,
    rename={
        "from_": "from",
        "gas_price": "gasPrice",
        "chain_id": "chainId",
        "y_parity": "yParity",
        "access_list": "accessList",
        "max_fee": "maxFeePerGas",
        "max_priority_fee": "maxPriorityFeePerGas",
        "max_blob_fee": "maxFeePerBlobGas",
        "blob_hashes": "blobVersionedHashes",
        "authorization_list": "authorizationList",
    },
    gc=False,
):
    """Every field of a transaction, as a node gives it."""

    hash: str
    from_: str
    nonce: str
    gas: str
    value: str
    input: str
    r: str
    s: str
    to: str | None = None
    type: str = "0x0"
    v: str | None = None
    y_parity: str | None = None
    chain_id: str | None = None
    gas_price: str | None = None
    max_fee: str | None = None
    max_priority_fee: str | None = None
    max_blob_fee: str | None = None
    access_list: tuple[Access, ...] | None = None
    blob_hashes: tuple[str, ...] | None = None
    authorization_list: tuple[Authorization, ...] | None = None


class SealedWithdrawal(msgspec.Struct, rename="camel", gc=False):
    """Every field of a withdrawal (EIP-4895)."""

    index: str
    validator_index: str
    address: str
    amount: str


class SealedLog(msgspec.Struct, rename="camel", gc=False):
    """A log with what a node says of its place."""

    address: str
    topics: tuple[str, ...]
    data: str
    block_hash: str
    transaction_hash: str
    log_index: str


class SealedReceipt(msgspec.Struct, rename="camel", gc=False):
    """Every field of a receipt that its trie holds, and what a node says of its place."""

    transaction_hash: str
    block_hash: str
    cumulative_gas_used: str
    logs_bloom: str
    logs: tuple[SealedLog, ...]
    status: str | None = None
    root: str | None = None
    """The state's root after the transaction, before Byzantium."""
    type: str = "0x0"
    contract_address: str | None = None


class SealedBlock(SealedHeader, rename="camel", gc=False):
    """A header with everything that the block holds."""

    transactions: tuple[SealedTransaction, ...] = ()
    withdrawals: tuple[SealedWithdrawal, ...] | None = None


def header_hash(header: SealedHeader) -> str:
    """The hash of the block that has this header."""
    fields: list[Rlp] = [
        _data(header.parent_hash),
        _data(header.sha3_uncles),
        _data(header.miner),
        _data(header.state_root),
        _data(header.transactions_root),
        _data(header.receipts_root),
        _data(header.logs_bloom),
        _quantity(header.difficulty),
        _quantity(header.number),
        _quantity(header.gas_limit),
        _quantity(header.gas_used),
        _quantity(header.timestamp),
        _data(header.extra_data),
        _data(header.mix_hash),
        _data(header.nonce),
    ]
    appended = [
        (header.base_fee_per_gas, _quantity),
        (header.withdrawals_root, _data),
        (header.blob_gas_used, _quantity),
        (header.excess_blob_gas, _quantity),
        (header.parent_beacon_block_root, _data),
        (header.requests_hash, _data),
    ]
    known = [(text, write) for text, write in appended if text is not None]
    if known != appended[: len(known)]:
        raise Forged("its header has fields of a later fork and lacks those of an earlier one")
    fields += [write(text) for text, write in known]
    return _hash(_rlp(fields))


def transaction_bytes(transaction: SealedTransaction) -> bytes:
    """The transaction as its trie holds it, and as its hash is of."""
    kind, payload = _unsigned(transaction)
    signature = [_quantity_of(_parity(transaction, kind)), _quantity(transaction.r), _quantity(transaction.s)]
    if kind == _LEGACY:
        return _rlp([*payload, *signature])
    return bytes([kind]) + _rlp([*payload, *signature])


def transaction_sender(transaction: SealedTransaction) -> str:
    """Who signed the transaction, 0x and 40 lower-case hex digits."""
    kind, payload = _unsigned(transaction)
    parity = _parity(transaction, kind)
    if kind == _LEGACY:
        if parity >= _V_WITH_CHAIN:  # EIP-155
            payload = [*payload, _quantity_of((parity - _V_WITH_CHAIN) // 2), b"", b""]
            parity = (parity - _V_WITH_CHAIN) % 2
        else:
            parity -= _V_WITHOUT_CHAIN
        signed = _rlp(payload)
    else:
        signed = bytes([kind]) + _rlp(payload)
    try:
        signature = _word(transaction.r) + _word(transaction.s) + bytes([parity])
        key = PublicKey.from_signature_and_message(signature, keccak256(signed), hasher=None)
    except (ValueError, OverflowError) as error:
        raise Forged(f"transaction {transaction.hash} has no signature that anybody can have made") from error
    return "0x" + keccak256(key.format(compressed=False)[1:])[-_ADDRESS_BYTES:].hex()


def created_contract(sender: str, nonce: str) -> str:
    """The address of the contract that a transaction creates."""
    return "0x" + keccak256(_rlp([_data(sender), _quantity(nonce)]))[-_ADDRESS_BYTES:].hex()


def receipt_bytes(receipt: SealedReceipt) -> bytes:
    """The receipt as its trie holds it."""
    outcome = _data(receipt.root or "0x") if receipt.status is None else _quantity(receipt.status)
    logs: list[Rlp] = [
        [_data(log.address), [_data(topic) for topic in log.topics], _data(log.data)] for log in receipt.logs
    ]
    payload = _rlp([outcome, _quantity(receipt.cumulative_gas_used), _data(receipt.logs_bloom), logs])
    kind = _kind(receipt.type)
    return payload if kind == _LEGACY else bytes([kind]) + payload


def withdrawal_bytes(withdrawal: SealedWithdrawal) -> bytes:
    """The withdrawal as its trie holds it."""
    return _rlp(
        [
            _quantity(withdrawal.index),
            _quantity(withdrawal.validator_index),
            _data(withdrawal.address),
            _quantity(withdrawal.amount),
        ]
    )


def trie_root(values: Sequence[bytes]) -> str:
    """The root of the trie that holds these values, each under its index."""
    trie = HexaryTrie({})
    with trie.squash_changes() as batch:
        for index, value in enumerate(values):
            batch[_rlp(index)] = value
    return "0x" + trie.root_hash.hex()


def bytes_hash(content: bytes) -> str:
    """Keccak-256, as nodes write it."""
    return _hash(content)


def _unsigned(transaction: SealedTransaction) -> tuple[int, list[Rlp]]:
    """Type and fields up to the signature."""
    kind = _kind(transaction.type)
    nonce, gas, value = _quantity(transaction.nonce), _quantity(transaction.gas), _quantity(transaction.value)
    to, content = _data(transaction.to or "0x"), _data(transaction.input)
    if kind == _LEGACY:
        return kind, [nonce, _quantity(transaction.gas_price), gas, to, value, content]
    accesses: list[Rlp] = [
        [_data(entry.address), [_data(key) for key in entry.storage_keys]] for entry in transaction.access_list or ()
    ]
    chain = _quantity(transaction.chain_id)
    if kind == _EIP_2930:
        return kind, [chain, nonce, _quantity(transaction.gas_price), gas, to, value, content, accesses]
    fees = [_quantity(transaction.max_priority_fee), _quantity(transaction.max_fee)]
    fields: list[Rlp] = [chain, nonce, *fees, gas, to, value, content, accesses]
    if kind == _EIP_4844:
        fields += [_quantity(transaction.max_blob_fee), [_data(each) for each in transaction.blob_hashes or ()]]
    if kind == _EIP_7702:
        fields.append([_authorization(each) for each in transaction.authorization_list or ()])
    return kind, fields


def _authorization(given: Authorization) -> Rlp:
    return [
        _quantity(given.chain_id),
        _data(given.address),
        _quantity(given.nonce),
        _quantity(given.y_parity),
        _quantity(given.r),
        _quantity(given.s),
    ]


def _parity(transaction: SealedTransaction, kind: int) -> int:
    """`v`, which for typed transactions is the parity of the signature's y."""
    text = transaction.v if kind == _LEGACY or transaction.y_parity is None else transaction.y_parity
    return quantity(text)


def _kind(text: str) -> int:
    kind = quantity(text)
    if kind > _EIP_7702:
        raise Forged(f"type {text} is none that chain.verify knows")
    return kind


def _word(text: str) -> bytes:
    return quantity(text).to_bytes(32, "big")


def quantity(text: str | None) -> int:
    """A number as nodes write it. Raises Forged."""
    if text is None or _QUANTITY.fullmatch(text) is None:
        raise Forged("a number is missing, or is not a hex quantity")
    return int(text, 16)


def _quantity(text: str | None) -> bytes:
    return _quantity_of(quantity(text))


def _quantity_of(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _data(text: str) -> bytes:
    try:
        content = bytes.fromhex(text[2:])
    except ValueError:
        content = b""
    if text != "0x" + content.hex():  # as nodes write it, so that what was checked is also what is read
        raise Forged("some bytes are not written as lower-case hex digits")
    return content


def _rlp(item: Rlp | int) -> bytes:
    return bytes(rlp.encode(item))


def _hash(content: bytes) -> str:
    return "0x" + keccak256(content).hex()
