"""From seed and command to path and address, calculated a second time by ethers from the words of the design."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mnemonic import Mnemonic

from devstack.tools import Tools
from wallet_cli.keys import SEED_BITS
from wallet_core.accounts import AccountKey, command_reply
from wallet_core.addresses import checksum_address
from wallet_core.keys import AccountKeys, derive_account_keys
from wallet_core.ports import CommandMessage

SCRIPT = Path(__file__).with_name("ethers_addresses.js")
NODE_SECONDS_MAX = 120
ROUNDS = 3
"""Each starts Node once, with a list of cases."""

texts = st.text(st.characters(codec="utf-8"), max_size=20)
# Integers that a JavaScript number holds exactly and writes as Python does.
metas = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
accounts = st.tuples(st.binary(min_size=64, max_size=64), st.integers(0, 2**31 - 1))


def _node(tools: Tools, *arguments: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        [tools.node, *arguments],
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=NODE_SECONDS_MAX,
        env={"NODE_PATH": str(tools.node_modules)},
    )
    return done.stdout.decode()


def _by_ethers(tools: Tools, cases: list[dict[str, Any]]) -> Any:
    return json.loads(_node(tools, SCRIPT, stdin=json.dumps(cases)))


def _by_us(keys: AccountKeys, message: CommandMessage) -> dict[str, str]:
    key = AccountKey.from_xpub(keys.xpub, keys.fingerprint)
    reply = json.loads(command_reply(key, message, chain_id=1, source="/w/m").value or b"")
    return {
        "path": reply["path"],
        "address": reply["address"],
        "xpub": keys.xpub,
        "xprv": keys.xprv,
        "fingerprint": keys.fingerprint,
        "gas_address": checksum_address(keys.gas_address),
    }


def _message(value: bytes, offset: int = 0, timestamp_ms: int = 0) -> CommandMessage:
    return CommandMessage("mainnet.command", 7, offset, timestamp_ms, None, value, ())


few = settings(max_examples=ROUNDS, suppress_health_check=list(HealthCheck))


@few
@given(st.lists(st.tuples(accounts, texts.filter(bool), metas), min_size=10, max_size=20))
def test_a_command_with_an_id_gets_the_address_that_ethers_finds(
    tools: Tools, cases: list[tuple[tuple[bytes, int], str, dict[str, Any]]]
) -> None:
    """Whoever has the seed, the id and the meta finds the money without any code of ours."""
    expected = _by_ethers(
        tools,
        [
            {"seed": seed.hex(), "account": account, "command": ["wm1", command_id, meta]}
            for (seed, account), command_id, meta in cases
        ],
    )
    for ((seed, account), command_id, meta), answer in zip(cases, expected, strict=True):
        value = json.dumps({"meta": meta, "type": "create_account", "id": command_id}).encode()
        assert _by_us(derive_account_keys(seed, account), _message(value)) == answer


@few
@given(st.lists(st.tuples(accounts, metas, st.integers(0, 2**53 - 1), st.integers(0, 2**42)), min_size=10, max_size=20))
def test_a_command_without_an_id_gets_the_address_that_ethers_finds(
    tools: Tools, cases: list[tuple[tuple[bytes, int], dict[str, Any], int, int]]
) -> None:
    """Whoever has the seed and the message as Kafka kept it finds the money without any code of ours."""
    messages = [
        _message(json.dumps({"type": "create_account", "meta": meta}).encode(), offset, timestamp_ms)
        for _, meta, offset, timestamp_ms in cases
    ]
    expected = _by_ethers(
        tools,
        [
            {
                "seed": seed.hex(),
                "account": account,
                "command": [
                    "wm1-anonymous",
                    message.topic,
                    message.partition,
                    message.offset,
                    message.timestamp_ms,
                    base64.b64encode(message.value or b"").decode(),
                ],
            }
            for ((seed, account), *_), message in zip(cases, messages, strict=True)
        ],
    )
    for ((seed, account), *_), message, answer in zip(cases, messages, expected, strict=True):
        assert _by_us(derive_account_keys(seed, account), message) == answer


WORDS = "test test test test test test test test test test test junk"


def test_ethers_is_really_asked(tools: Tools) -> None:
    """It knows the first account of the seed that every test chain shares: what answers is no echo of ours."""
    code = "const {version, HDNodeWallet} = require('ethers'); "
    code += "console.log(version, HDNodeWallet.fromPhrase(process.argv[1]).address)"
    version, address = _node(tools, "-e", code, WORDS).split()
    assert version.startswith("6.")
    assert address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def test_a_new_seed_phrase_is_the_same_wallet_everywhere(tools: Tools) -> None:
    """A phrase as `walletctl keys new` makes it gives other programs the same seed."""
    code = "console.log(require('ethers').Mnemonic.fromPhrase(process.argv[1]).computeSeed())"
    words = Mnemonic("english").generate(SEED_BITS)
    assert _node(tools, "-e", code, words).strip() == "0x" + Mnemonic.to_seed(words).hex()
