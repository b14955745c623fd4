"""What a block's logs bloom admits and excludes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.blocks import FULL_BLOOM, Header, Log
from wallet_core.bloom import BLOOM_BITS, admitted, bloom_of, check_admitted
from wallet_core.errors import NodeInconsistent
from wallet_core.tokens import TRANSFER_TOPIC

BLOCK = "0x" + "b1" * 32
EMPTY = "0x" + "00" * 256
USDT = "0xdac17f958d2ee523a2206206994597c13d831ec7"
addresses = st.binary(min_size=20, max_size=20).map(lambda octets: "0x" + octets.hex())
topics = st.binary(min_size=32, max_size=32).map(lambda octets: "0x" + octets.hex())


def header(bloom: str) -> Header:
    return Header(1, BLOCK, "0x" + "b0" * 32, 0, bloom)


def log(address: str, *words: str) -> Log:
    return Log(address, words, "0x", BLOCK, "0x" + "7a" * 32, 0)


logs = st.builds(log, addresses, topics, topics)


def test_the_bloom_of_a_log_is_what_a_node_writes() -> None:
    """Golden: bits of the header in which anvil 1.7.1 mined this one log (Ganache agrees on those that it shares)."""
    sender, recipient = "0x" + "00" * 12 + "f39fd6e51aad88f6f4ce6ab8827279cfffb92266", "0x" + "00" * 12 + "a1" * 20
    mined = log("0x5fbdb2315678afecb367f032d93f642f64180aa3", TRANSFER_TOPIC, sender, recipient)
    bits = int(bloom_of([mined]), 16)
    set_bits = [place for place in range(BLOOM_BITS) if bits >> place & 1]
    assert set_bits == [349, 453, 481, 486, 801, 1060, 1184, 1254, 1265, 1443, 1530, 1995]
    assert len(bloom_of([])) == len(FULL_BLOOM)


@given(st.lists(logs, max_size=20))
def test_what_is_there_is_never_excluded(found: list[Log]) -> None:
    """A filter may say yes too often, and never no where there is something: else a deposit would be lost."""
    at = header(bloom_of(found))
    for each in found:
        assert admitted(at, [each.address], each.topics[0]) == (each.address,)
    check_admitted(at, found)


@given(logs)
def test_an_empty_bloom_excludes_everything_and_a_full_one_nothing(each: Log) -> None:
    """Both ends of the scale."""
    assert admitted(header(EMPTY), [each.address], each.topics[0]) == ()
    assert admitted(header(FULL_BLOOM), [each.address], each.topics[0]) == (each.address,)
    check_admitted(header(FULL_BLOOM), [each])
    with pytest.raises(NodeInconsistent, match="excludes"):
        check_admitted(header(EMPTY), [each])


def test_both_the_contract_and_the_topic_must_be_admitted() -> None:
    """A busy contract's other events, and other contracts' transfers, ask for no request."""
    other = "0x" + "c0" * 20
    approvals = header(bloom_of([log(USDT, "0x" + "8c" * 32)]))
    elsewhere = header(bloom_of([log(other, TRANSFER_TOPIC)]))
    assert admitted(approvals, [USDT, other], TRANSFER_TOPIC) == ()
    assert admitted(elsewhere, [USDT, other], TRANSFER_TOPIC) == (other,)


def test_a_log_whose_last_topic_is_excluded_is_noticed() -> None:
    """Every topic sets bits, not only the first."""
    at = header(bloom_of([log(USDT, TRANSFER_TOPIC)]))
    with pytest.raises(NodeInconsistent):
        check_admitted(at, [log(USDT, TRANSFER_TOPIC, "0x" + "11" * 32)])
