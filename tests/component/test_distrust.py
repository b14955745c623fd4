"""A whole wallet that believes no node: `chain.verify` and a quorum, on real nodes, one of which may lie."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import evm
from component.lying_node import LIES, Lie, lying_node, truth
from component.worker_processes import ANSWER_SECONDS_MAX, CONFIRMATION_DEPTH, SETTLE_DEPTH, Wallet, running_wallet
from devstack.processes import wait_until
from devstack.services import Anvil, EthereumNode, Ganache, Kafka, Redis
from wallet_core.addresses import checksum_address, parse_address

GAS = hex(300_000)


async def created_token(node: EthereumNode) -> str:
    """The address of a new contract that logs every transfer that it is told."""

    def create() -> str:
        sender = node.rpc("eth_accounts")[0]
        data = "0x" + evm.init_code(evm.TOKEN).hex()
        sent = node.rpc("eth_sendTransaction", {"from": sender, "gas": GAS, "data": data})
        assert wait_until(lambda: node.rpc("eth_getTransactionReceipt", sent) is not None, ANSWER_SECONDS_MAX)
        return str(node.rpc("eth_getTransactionReceipt", sent)["contractAddress"])

    return checksum_address(parse_address(await asyncio.to_thread(create)))


def distrusting(token: str, *urls: str, quorum: int = 2) -> dict[str, Any]:
    """What the resource of a wallet changes."""
    chain = {"rpc": [{"url": url} for url in urls], "quorum": quorum, "verify": True}
    erc20 = {"type": "erc20", "symbol": "TOK", "contract": token, "decimals": 6}
    return {"spec": {"chain": chain, "assets": [{"type": "native", "symbol": "ETH"}, erc20]}}


async def assert_both_deposits_are_confirmed(wallet: Wallet, token: str) -> None:
    """One of ETH and one of the token: detected, then confirmed, each once; and the blocks settle."""
    address = await wallet.create_account()
    paid = await wallet.pay(address, 5)
    sent = await wallet.pay(token, 0, data=evm.call_data(parse_address(address), 2_500_000))
    await wallet.events("detected", "detected")
    await wallet.mine(CONFIRMATION_DEPTH)
    events = await wallet.events("detected", "detected", "confirmed", "confirmed")
    told = {(each["status"], each["txid"], each["asset"]["symbol"], each["value"]) for each in events}
    assert told == {
        (status, *deposit)
        for status in ("detected", "confirmed")
        for deposit in ((paid, "ETH", "0.000000000000000005"), (sent, "TOK", "2.5"))
    }
    settled = int(await wallet.rpc("eth_blockNumber"), 16)
    await wallet.mine(SETTLE_DEPTH)
    await wallet.workers[-1].until(lambda said: said.get("settled_block", 0) >= settled)


@pytest.fixture(params=["anvil", "ganache"])
def node(request: pytest.FixtureRequest) -> EthereumNode:
    service: Anvil | Ganache = request.getfixturevalue(request.param)
    return service


async def test_a_wallet_that_verifies_with_a_quorum_works_as_usual(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, node: EthereumNode
) -> None:
    """ETH and a token, every root recomputed and every settled block agreed on, and no honest node is blamed."""
    token = await created_token(node)
    async with (
        lying_node(node.url, truth) as second,
        running_wallet(tmp_path, kafka, redis_server, node, changes=distrusting(token, node.url, second)) as wallet,
    ):
        _, sync = await wallet.start_all()
        await assert_both_deposits_are_confirmed(wallet, token)
        assert "wallet_rpc_errors_total{" not in (await sync.get("/metrics"))[1]


@pytest.mark.parametrize("lie", LIES)
async def test_a_node_that_hides_a_transfer_is_found_out(
    lie: str, tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil
) -> None:
    """Though it is asked first: what it says is not believed, and the other one's word is."""
    token = await created_token(anvil)
    async with (
        lying_node(anvil.url, LIES[lie]) as liar,
        running_wallet(
            tmp_path, kafka, redis_server, anvil, changes=distrusting(token, liar, anvil.url, quorum=1)
        ) as wallet,
    ):
        _, sync = await wallet.start_all()
        await assert_both_deposits_are_confirmed(wallet, token)
        assert 'wallet_rpc_errors_total{endpoint="1",fault="forged"}' in (await sync.get("/metrics"))[1]


async def test_where_the_only_node_lies_nothing_is_said_until_it_tells_the_truth(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, anvil: Anvil
) -> None:
    """The block is not passed over: the wallet waits before it, with the reason, and then reports what it holds."""
    token, lies = await created_token(anvil), list[Lie]()

    def lie(call: dict[str, Any], result: Any) -> Any:
        for each in lies:
            result = each(call, result)
        return result

    async with (
        lying_node(anvil.url, lie) as liar,
        running_wallet(tmp_path, kafka, redis_server, anvil, changes=distrusting(token, liar, quorum=1)) as wallet,
    ):
        _, sync = await wallet.start_all()
        before = (await sync.until(lambda said: said.get("lag") == 0))["block"]
        lies += LIES.values()
        address = await wallet.create_account()
        await wallet.pay(address, 5)
        await wallet.mine(CONFIRMATION_DEPTH)
        said = await sync.until(lambda said: "are not those of its header" in said["message"])
        assert (said["reason"], said["block"]) == ("RpcUnreachable", before)
        lies.clear()
        await wallet.events("confirmed", address=address)
