"""`chain.verify` against real nodes: the transactions that they mine, and where they do not follow the rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from devstack.services import Anvil, EthereumNode, Ganache
from wallet_core.errors import NodeInconsistent
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.system_clock import SystemClock

RECIPIENT = "0xc0ffee0000000000000000000000000000000001"
FEES = {"maxFeePerGas": hex(10**10), "maxPriorityFeePerGas": "0x1"}
ACCESS = [{"address": RECIPIENT, "storageKeys": ["0x" + "00" * 32]}]
LOGGING_INIT_CODE = "0x60056000600760008080a300"
"""Logs nothing with two topics: PUSH1 …, LOG3, STOP."""

KINDS: dict[str, dict[str, Any]] = {
    "legacy": {"to": RECIPIENT, "value": "0x5", "gasPrice": hex(10**10)},
    "access list": {"to": RECIPIENT, "value": "0x5", "type": "0x1", "gasPrice": hex(10**10), "accessList": ACCESS},
    "dynamic fee": {"to": RECIPIENT, "value": "0x5", "type": "0x2", **FEES, "accessList": ACCESS},
    "contract": {"data": LOGGING_INIT_CODE},
    "failed": {"data": "0xfe"},
    "set code": {
        "to": RECIPIENT,
        "value": "0x5",
        "type": "0x4",
        **FEES,
        "authorizationList": [
            {"chainId": "0x0", "address": RECIPIENT, "nonce": "0x0", "yParity": "0x1", "r": "0x1", "s": "0x1"}
        ],
    },
}
OF_GANACHE = ("legacy", "access list", "dynamic fee", "contract", "failed")


class Counted:
    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None: ...
    def endpoint_changed(self, status: EndpointStatus) -> None: ...
    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        assert endpoint == 1
        self.faults.append(fault)


class Verified:
    """A real node, read with and without verification."""

    def __init__(self, service: EthereumNode) -> None:
        self._service = service
        self.counted = Counted()
        self.plain = self._nodes(verify=False)
        self.checked = self._nodes(verify=True)

    def _nodes(self, *, verify: bool) -> EthereumNodes:
        return EthereumNodes(
            [Endpoint(self._service.url)],
            chain_id=self._service.chain_id,
            with_finalized=True,
            clock=SystemClock(),
            events=self.counted,
            verify=verify,
        )

    async def _rpc(self, method: str, *params: object) -> Any:
        return await asyncio.to_thread(self._service.rpc, method, *params)

    async def mined(self, transaction: dict[str, Any]) -> tuple[str, int]:
        """Its hash and block, once it is mined."""
        sender = (await self._rpc("eth_accounts"))[0]
        sent = await self._rpc("eth_sendTransaction", {"from": sender, "gas": hex(300_000), **transaction})
        async with asyncio.timeout(30):
            while (receipt := await self._rpc("eth_getTransactionReceipt", sent)) is None:  # noqa: ASYNC110 - mined by itself
                await asyncio.sleep(0.01)  # the node announces no receipts
        return sent, int(receipt["blockNumber"], 16)


@pytest.fixture
async def on_anvil(anvil: Anvil) -> AsyncIterator[Verified]:
    found = Verified(anvil)
    async with found.plain, found.checked:
        yield found


@pytest.fixture
async def on_ganache(ganache: Ganache) -> AsyncIterator[Verified]:
    found = Verified(ganache)
    async with found.plain, found.checked:
        yield found


async def assert_reads_alike(node: Verified, kind: str) -> None:
    sent, number = await node.mined(KINDS[kind])
    block = await node.checked.block(number)
    assert block == await node.plain.block(number)
    assert await node.checked.receipt(sent, block.header.hash) == await node.plain.receipt(sent, block.header.hash)
    head = await node.checked.head()
    assert head == await node.plain.head()
    assert node.counted.faults == []


@pytest.mark.parametrize("kind", KINDS)
async def test_blocks_of_anvil_are_what_their_hashes_say(kind: str, on_anvil: Verified) -> None:
    """Headers of the newest fork, and every kind of transaction with its receipt, by `eth_getBlockReceipts`."""
    await assert_reads_alike(on_anvil, kind)


@pytest.mark.parametrize("kind", [kind for kind in OF_GANACHE if kind != "failed"])
async def test_blocks_of_ganache_are_what_their_hashes_say(kind: str, on_ganache: Verified) -> None:
    """Headers up to Shanghai; its receipts come one by one."""
    await assert_reads_alike(on_ganache, kind)


async def test_a_failed_transaction_in_a_block_of_ganache_is_told(on_ganache: Verified) -> None:
    """Ganache writes a failed status as a zero byte, where EIP-658 has nothing: its receipts pass for forged."""
    sent, number = await on_ganache.mined(KINDS["failed"])
    block = await on_ganache.checked.block(number)
    with pytest.raises(NodeInconsistent, match="not those of its header"):
        await on_ganache.checked.receipt(sent, block.header.hash)
    assert on_ganache.counted.faults == [Fault.FORGED]
