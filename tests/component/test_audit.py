"""`walletctl audit` on real services: clean where all is well, and each cause by its name where it is not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evm
from component.sent_orders import order, outcome
from component.test_transfers import DEBUG, TRACE, without
from component.worker_processes import KEYS, SETTLE_DEPTH, Wallet, Worker, running_wallet
from devstack.services import Anvil, Ganache, Kafka, Redis
from wallet_core.accounts import AccountKey, calculate_identity
from wallet_core.addresses import checksum_address, parse_address
from wallet_core.canonical_json import canonical_object
from wallet_core.coverage import covered_key
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_sender import KafkaSender
from wallet_workers.adapters.kafka_state import KafkaStateView

SLOAD, SSTORE, ADD, EQ, CALLDATASIZE, JUMPI, JUMPDEST = (
    bytes([each]) for each in (0x54, 0x55, 0x01, 0x14, 0x36, 0x57, 0x5B)
)
BALANCE_OF_SIZE = 4 + 32
"""Bytes of data of `balanceOf(address)`; `transfer(address, uint256)` has a word more."""
GAS = hex(1_000_000)


def token_with_books() -> bytes:
    """Makes what it transfers, and knows who holds how much."""
    transfer = evm.code(evm.AMOUNT, evm.TO, SLOAD, ADD, evm.TO, SSTORE) + evm.TOKEN + evm.code("STOP")
    balance = evm.code(JUMPDEST, evm.TO, SLOAD, 0, "MSTORE", 32, 0, "RETURN")
    entry_size = len(evm.code(CALLDATASIZE, BALANCE_OF_SIZE, EQ, 0xFF, JUMPI))
    return evm.code(CALLDATASIZE, BALANCE_OF_SIZE, EQ, entry_size + len(transfer), JUMPI) + transfer + balance


async def create(wallet: Wallet, runtime: bytes, *, mine: bool) -> str:
    """A new contract's address, in lower-case hex."""
    sent = await wallet.pay(None, 0, data="0x" + evm.init_code(runtime).hex(), gas=GAS)
    if mine:
        await wallet.mine()
    receipt = await wallet.rpc("eth_getTransactionReceipt", sent)
    assert receipt["status"] == "0x1"
    return str(receipt["contractAddress"])


async def settle(wallet: Wallet, sync: Worker) -> int:
    """Until every block of now is settled by the wallet; the newest of them."""
    number = int(await wallet.rpc("eth_blockNumber"), 16)
    await wallet.mine(SETTLE_DEPTH)
    await sync.until(lambda status: status.get("settled_block", -1) >= number)
    return number


async def audit(wallet: Wallet, *arguments: str, exit_code: int, url: str | None = None) -> Any:
    """What `walletctl audit` says, by that node or by the resource's own."""
    resource = json.loads(json.dumps(wallet.resource))
    if url is not None:
        resource["spec"]["chain"]["rpc"] = [{"url": url}]
    file = wallet.directory / "audited.yaml"
    file.write_text(json.dumps(resource))  # JSON is YAML
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wallet_cli.main", "audit", "-f", str(file), "-o", "json", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == exit_code, (out.decode(), err.decode())
    return json.loads(out) if out else err.decode()


def found(report: Any) -> list[tuple[str, str | None, str | None, int | None]]:
    """Cause, whose, amount and first block of each difference."""
    return [(each["cause"], each["address"], each["amount"], each["first_block"]) for each in report["differences"]]


def token_asset(contract: str) -> dict[str, Any]:
    return {"type": "erc20", "symbol": "TOK", "contract": checksum_address(parse_address(contract)), "decimals": 6}


def address_of(name: str) -> str:
    """The address of the account with that id and no meta, before anybody asked for it."""
    key = AccountKey.from_xpub(KEYS.xpub, KEYS.fingerprint)
    return checksum_address(key.address(key.path(calculate_identity(name, canonical_object({})))))


async def create_account(wallet: Wallet, name: str) -> str:
    """The address of the account with that id and no meta."""
    await wallet.send(json.dumps({"id": name, "type": "create_account"}).encode())
    journal = await wallet.journal()

    def of_that_id(seen: Sequence[Any]) -> list[str]:
        return [str(each.json()["address"]) for each in seen if each.json()["id"] == name]

    return of_that_id(await journal.until(Topic.ADDRESS_CREATED, lambda seen: bool(of_that_id(seen))))[0]


async def forge_record(wallet: Wallet) -> int:
    """Put another digest into the record of what was read; the first block that it covers."""
    clients, topic = KafkaClients(wallet.kafka.bootstrap_servers), wallet.prefix + Topic.STATE_SYNC
    record = json.loads((await KafkaStateView(clients, topic).read())[covered_key(0)])
    sender = KafkaSender(clients)
    await sender.send(topic, covered_key(0), json.dumps(record | {"digest": "00" * 32}).encode())
    await sender.close()
    return int(record["first"])


async def test_every_cause_is_found_and_named(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """Clean at first; then what was paid too early, an unlisted token, ETH inside contracts, and a forged record."""
    anvil = make_anvil(mining=False)
    async with (
        without({DEBUG, TRACE}, anvil.url) as (untraced, _),
        running_wallet(
            tmp_path, kafka, redis_server, anvil, changes={"spec": {"chain": {"rpc": [{"url": untraced}]}}}
        ) as wallet,
    ):
        listed, unlisted = [await create(wallet, token_with_books(), mine=True) for _ in range(2)]
        forwarder = await create(wallet, evm.FORWARDER, mine=True)
        early = address_of("early")
        await wallet.pay(early, 3)
        await wallet.mine()
        paid_early = int(await wallet.rpc("eth_blockNumber"), 16)
        await wallet.mine(2 * SETTLE_DEPTH)
        wallet.resource["spec"]["assets"].append(token_asset(listed))
        assert "has no checkpoint" in await audit(wallet, exit_code=3)

        _, sync = await wallet.start_all()
        address = await create_account(wallet, "first")
        await wallet.pay(address, 5)
        await wallet.pay(listed, 0, data=evm.call_data(parse_address(address), 7), gas=GAS)
        await wallet.mine()
        newest = await settle(wallet, sync)
        report = await audit(wallet, exit_code=0)
        assert report["clean"]
        assert report["coverage"]["covered"]["first"] == paid_early + SETTLE_DEPTH + 2
        base = report["block"]["number"]
        assert base >= newest
        assert (report["coverage"]["covered"]["last"], report["coverage"]["buckets_checked"]) == (base, 1)
        assert (report["addresses"], report["assets"]) == (1, ["ETH", "TOK"])
        assert "is not settled yet" in await audit(wallet, "--to", str(base + 1), exit_code=2)

        assert await create_account(wallet, "early") == early
        assert found(await audit(wallet, exit_code=1)) == [("before_watch", early, "3", paid_early)]
        assert (await audit(wallet, "--address", address, exit_code=0))["addresses"] == 1
        scanned = await outcome(wallet, await order(wallet, type="rescan", from_block=paid_early, to_block=newest))
        assert (scanned.status, scanned.published) == (OrderStatus.DONE, 1)
        assert (await audit(wallet, exit_code=0))["addresses"] == 2

        await wallet.pay(unlisted, 0, data=evm.call_data(parse_address(address), 9), gas=GAS)
        await wallet.mine()
        after_token = await settle(wallet, sync)
        assert found(await audit(wallet, exit_code=1)) == [("unknown_token", address, "9", None)]

        inside = await wallet.pay(forwarder, 4, data=evm.call_data(parse_address(address)), gas=GAS)
        await wallet.mine()
        number = await settle(wallet, sync)
        later = ("--from", str(after_token + 1))
        assert found(await audit(wallet, *later, exit_code=1)) == [("traces_off", address, "4", number)]
        report = await audit(wallet, *later, exit_code=1, url=anvil.url)
        assert found(report) == [("not_published", address, "4", number)]
        assert report["differences"][0]["transactions"] == [inside]

        assert await sync.drain() == 0
        last = (await audit(wallet, "--from", str(number + 1), exit_code=0))["coverage"]["covered"]["last"]
        first = await forge_record(wallet)
        report = await audit(wallet, "--from", str(number + 1), exit_code=1)
        assert found(report) == [("wrong_digest", None, None, first)]
        assert report["differences"][0]["last_block"] == last


async def test_an_audit_by_ganache(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, make_ganache: Callable[..., Ganache]
) -> None:
    """It has no traces, and knows balances by number only."""
    async with running_wallet(tmp_path, kafka, redis_server, make_ganache()) as wallet:
        listed = await create(wallet, token_with_books(), mine=False)
        forwarder = await create(wallet, evm.FORWARDER, mine=False)
        wallet.resource["spec"]["assets"].append(token_asset(listed))
        _, sync = await wallet.start_all()
        address = await create_account(wallet, "first")
        await wallet.pay(address, 5)
        await wallet.pay(listed, 0, data=evm.call_data(parse_address(address), 7), gas=GAS)
        await settle(wallet, sync)
        assert (await audit(wallet, exit_code=0))["tokens_unsought"] is None
        await wallet.pay(forwarder, 4, data=evm.call_data(parse_address(address)), gas=GAS)
        number = await settle(wallet, sync)
        assert found(await audit(wallet, exit_code=1)) == [("traces_off", address, "4", number)]
