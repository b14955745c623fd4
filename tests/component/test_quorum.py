"""A quorum of real nodes: one anvil, and another that forked off it and goes its own way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from component.worker_processes import CONFIRMATION_DEPTH, SETTLE_DEPTH, running_wallet
from devstack.services import Anvil, Kafka, Redis
from devstack.tools import Tools
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.system_clock import SystemClock

BLOCKS_IN_COMMON = 20


@dataclass(kw_only=True)
class ForkedAnvil(Anvil):
    """Has the other node's blocks up to where it stood at the start, and none of those that come later."""

    of: Anvil

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "--fork-url", self.of.url]


@dataclass
class TwoNodes:
    honest: Anvil
    forked: ForkedAnvil

    @property
    def second_endpoint(self) -> str:
        """The honest node again, by another URL: an endpoint of its own, as far as the wallet can see."""
        return self.honest.url + "/?again"


@pytest.fixture
def two_nodes(tools: Tools, tmp_path: Path, make_anvil: Callable[..., Anvil]) -> Iterator[TwoNodes]:
    honest = make_anvil()
    honest.rpc("anvil_mine", hex(BLOCKS_IN_COMMON))
    forked = ForkedAnvil(tools=tools, data=tmp_path / "forked", of=honest)
    forked.start()
    try:
        yield TwoNodes(honest, forked)
    finally:
        forked.stop()


class Counted:
    def __init__(self) -> None:
        self.faults: list[tuple[int, Fault]] = []

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None: ...
    def endpoint_changed(self, status: EndpointStatus) -> None: ...
    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        self.faults.append((endpoint, fault))


async def test_a_block_is_agreed_on_only_where_both_nodes_have_it(two_nodes: TwoNodes) -> None:
    """In common: agreed. One held back: too few. Each its own: the hashes are told."""
    honest, forked, counted = two_nodes.honest, two_nodes.forked, Counted()
    async with EthereumNodes(
        [Endpoint(honest.url), Endpoint(forked.url)],
        chain_id=honest.chain_id,
        with_finalized=False,
        clock=SystemClock(),
        events=counted,
        quorum=2,
    ) as nodes:
        assert await nodes.agreed_header(BLOCKS_IN_COMMON) == await nodes.header(BLOCKS_IN_COMMON)
        await asyncio.to_thread(honest.rpc, "anvil_mine", "0x1")
        with pytest.raises(RpcUnreachable, match="1 of 2 endpoints"):
            await nodes.agreed_header(BLOCKS_IN_COMMON + 1)
        await asyncio.to_thread(forked.rpc, "anvil_mine", "0x1", "0x7")
        with pytest.raises(NodeInconsistent, match="no 2 endpoints agree"):
            await nodes.agreed_header(BLOCKS_IN_COMMON + 1)
    assert counted.faults == [(2, Fault.ABSENT), (1, Fault.DISAGREES), (2, Fault.DISAGREES)]


def rpc_of(*urls: str) -> dict[str, Any]:
    return {"spec": {"chain": {"rpc": [{"url": url} for url in urls], "quorum": 2}}}


async def test_the_wallet_leaves_an_endpoint_that_the_quorum_contradicts(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, two_nodes: TwoNodes
) -> None:
    """It follows its first endpoint onto that node's own branch, settles nothing there, and comes back by itself."""
    honest, forked = two_nodes.honest, two_nodes.forked
    urls = rpc_of(forked.url, honest.url, two_nodes.second_endpoint)
    async with running_wallet(tmp_path, kafka, redis_server, honest, changes=urls) as wallet:
        _, sync = await wallet.start_all()
        settled = (await sync.until(lambda said: said.get("lag") == 0))["settled_block"]
        address = await wallet.create_account()
        txid = await wallet.pay(address)
        await wallet.mine(SETTLE_DEPTH + CONFIRMATION_DEPTH)
        assert (await sync.status())["settled_block"] == settled  # the first endpoint stands still
        await asyncio.to_thread(forked.rpc, "anvil_mine", hex(SETTLE_DEPTH + 2), "0x7")
        events = await wallet.events("confirmed")
        assert (events[0]["txid"], events[0]["block_hash"]) == (txid, await wallet.block_of(txid))
        said = await sync.until(lambda said: said["settled_block"] > settled)
        assert not said["endpoints"][0]["usable"]
        assert "the others agree" in said["endpoints"][0]["last_error"]
        assert 'wallet_rpc_errors_total{endpoint="1",fault="disagrees"}' in (await sync.get("/metrics"))[1]


async def test_without_a_quorum_the_wallet_settles_nothing_and_says_why(
    tmp_path: Path, kafka: Kafka, redis_server: Redis, two_nodes: TwoNodes
) -> None:
    """One against one: the reason is in `/status`, and nothing is published meanwhile."""
    honest, forked = two_nodes.honest, two_nodes.forked
    async with running_wallet(tmp_path, kafka, redis_server, honest, changes=rpc_of(honest.url, forked.url)) as wallet:
        _, sync = await wallet.start_all()
        settled = (await sync.until(lambda said: said.get("lag") == 0))["settled_block"]
        await asyncio.to_thread(forked.rpc, "anvil_mine", hex(2 * SETTLE_DEPTH), "0x7")
        await wallet.mine(2 * SETTLE_DEPTH)
        said = await sync.until(lambda said: "no 2 endpoints agree" in said["message"])
        assert said["reason"] == "RpcUnreachable"
        assert said["settled_block"] <= BLOCKS_IN_COMMON
        assert said["settled_block"] >= settled
