"""How fast sync catches up with one scanner and with two: python bench/catch_up.py --redis redis://127.0.0.1:6379/0

A replay server (a process of its own) serves linked blocks with --transactions transfers each, from memory, as a node
does, each answer after --latency-ms; the real node adapter, board, scanners and sequencer's side work on them, without
Kafka: addresses come from memory, and a checked span counts as appended. One scanner is the sequencer's own process;
the second is a process more.

The two settings take turns on the same server, so that a busy machine slows both: what counts is the ratio. Server,
sequencer and scanners share the machine's cores: where those are the limit (no latency, many transactions, two cores)
a second scanner gains nothing; where the node's latency is, as over a network, it does.
"""

import argparse
import asyncio
import hashlib
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import structlog
from aiohttp import web

from wallet_core.addresses import Address
from wallet_core.chain import BlockRef, Rules, Window, settled_number
from wallet_core.checkpoint import SyncState
from wallet_core.resource import parse_resource
from wallet_core.settings import Role, SyncSettings, environment, settings_from_environment
from wallet_core.spans import CUT_LIFE_SECONDS
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.redis_spans import RedisSpanBoard
from wallet_workers.adapters.system_clock import SystemClock
from wallet_workers.catching_up import CatchingUp
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.span_scanner import SpanScanner
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import Stopping

CHAIN_ID = 1337
SETTLE_DEPTH = 64
ADDRESSES = 100_000
SETTINGS_HASH = "bench"


def digest(*parts: object) -> str:
    return "0x" + hashlib.sha256(repr(parts).encode()).hexdigest()


# --- the replay server ------------------------------------------------------------------------------------------------


def block_hash(number: int) -> str:
    return digest("block", number)


async def serve(port: int, tip: int, transactions: int, latency_seconds: float) -> None:
    body = json.dumps(
        [
            {"hash": digest("transaction", n), "from": digest("f", n)[:42], "to": digest("t", n)[:42], "value": "0x1"}
            for n in range(transactions)
        ]
    )

    def header(number: int) -> str:
        return (
            f'"number":"{number:#x}","hash":"{block_hash(number)}","parentHash":"{block_hash(number - 1)}",'
            f'"timestamp":"{1_700_000_000 + number:#x}","logsBloom":"0x{"00" * 256}"'
        )

    async def answer(request: web.Request) -> web.Response:
        call = await request.json()
        await asyncio.sleep(latency_seconds)
        match call["method"], call["params"]:
            case "eth_chainId", _:
                result = f'"{CHAIN_ID:#x}"'
            case "eth_getBlockByNumber", [number, with_transactions]:
                at = tip if number == "latest" else int(number, 16)
                listed = f',"transactions":{body}' if with_transactions else ""
                result = f"{{{header(at)}{listed}}}"
            case _:
                error = {"code": -32601, "message": "the method does not exist/is not available"}
                return web.json_response({"jsonrpc": "2.0", "id": call["id"], "error": error})
        text = f'{{"jsonrpc":"2.0","id":{call["id"]},"result":{result}}}'
        return web.Response(text=text, content_type="application/json")

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


# --- a replica of sync ------------------------------------------------------------------------------------------------


class Addresses:
    """Port `AddressFeed`: strangers, whom no block pays."""

    def __init__(self) -> None:
        self._new: Sequence[Address] = [
            Address(hashlib.sha256(b"%d" % number).digest()[:20]) for number in range(ADDRESSES)
        ]

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        new, self._new = self._new, ()
        if new:
            yield new


class Unheard:
    """`EndpointEvents` that nobody listens to."""

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None: ...
    def endpoint_failed(self, endpoint: int, fault: Fault) -> None: ...
    def endpoint_changed(self, status: EndpointStatus) -> None: ...


class Replica:
    def __init__(self, url: str, redis: str, wallet: str) -> None:
        resource = {
            "apiVersion": "wallet-manager.dev/v1alpha1",
            "kind": "WalletManager",
            "metadata": {"name": wallet, "namespace": "bench"},
            "spec": {
                "chain": {"id": CHAIN_ID, "rpc": [{"url": url}], "settleDepth": SETTLE_DEPTH},
                "kafka": {"bootstrapServers": "127.0.0.1:9092"},
                "redis": {"url": redis},
                "accounts": {
                    "fingerprint": "00" * 20,
                    "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
                },
                "assets": [{"type": "native", "symbol": "ETH"}],
                "tuning": {"pollSeconds": 0.05},
            },
        }
        settings = settings_from_environment(SyncSettings, environment(parse_resource(resource), Role.SYNC))
        clock = SystemClock()
        status = WorkerStatus(Role.SYNC, wallet, SETTINGS_HASH, clock)
        metrics = Metrics(status)
        self.rules = Rules(settings.chain.confirmation.depth, SETTLE_DEPTH)
        self.node = EthereumNodes(
            [Endpoint(url, None)], chain_id=CHAIN_ID, with_finalized=False, clock=clock, events=Unheard()
        )
        self.board = RedisSpanBoard(
            redis,
            prefix=f"{{{settings.qualified_name}}}:spans",
            claim_ttl_ms=settings.tuning.lock_ttl_seconds * 1000,
            cut_ttl_ms=CUT_LIFE_SECONDS * 1000,
        )
        self.scanner = Scanner(settings, node=self.node, feed=Addresses(), status=status, metrics=metrics)
        self.catching_up = CatchingUp(
            settings,
            clock=clock,
            board=self.board,
            node=self.node,
            scanner=self.scanner,
            status=status,
            metrics=metrics,
        )
        self.loop = SpanScanner(
            settings,
            clock=clock,
            board=self.board,
            scanner=self.scanner,
            status=status,
            metrics=metrics,
            stopping=Stopping(clock),
        )

    async def scan(self) -> None:
        """Scan spans for ever."""
        async with self.node:
            await self.scanner.read_addresses()
            print("scanning", flush=True)
            await self.loop.run()

    async def catch_up(self) -> float:
        """Follow the settled blocks from block 0 on, scanning beside it. Returns blocks per second."""
        async with self.node:
            await self.scanner.read_addresses()
            state = SyncState(Window(BlockRef(0, block_hash(0))), asset_first_blocks={"native": 1})
            scanning = asyncio.create_task(self.loop.run())
            began = time.perf_counter()
            while True:
                head = await self.node.head()
                found = await self.catching_up.blocks(state, settled_number(self.rules, head))
                if found is None:
                    break
                if found:
                    state = replace(state, window=Window(found[-1].ref))
            seconds = time.perf_counter() - began
            scanning.cancel()
            await asyncio.gather(scanning, return_exceptions=True)
            await self.board.close_connections()
            return state.window.base.number / seconds


# --- the comparison ---------------------------------------------------------------------------------------------------


def child(*arguments: str) -> "subprocess.Popen[str]":
    """This script in another process, once it says that it is ready."""
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    if process.stdout is not None:
        process.stdout.readline()
    return process


async def catch_up(url: str, redis: str, wallet: str) -> float:
    return await Replica(url, redis, wallet).catch_up()


async def scan(url: str, redis: str, wallet: str) -> None:
    await Replica(url, redis, wallet).scan()


def measure(url: str, redis: str, scanners: int) -> float:
    wallet = f"b{uuid.uuid4().hex[:8]}"
    others = [child("scan", url, redis, wallet) for _ in range(scanners - 1)]
    try:
        return asyncio.run(catch_up(url, redis, wallet))
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    match sys.argv[1:]:
        case ["serve", port, tip, transactions, latency_ms]:
            asyncio.run(serve(int(port), int(tip), int(transactions), float(latency_ms) / 1000))
        case ["scan", url, redis, wallet]:
            asyncio.run(scan(url, redis, wallet))
        case _:
            compare()


def compare() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--port", type=int, default=18_999)
    parser.add_argument("--blocks", type=int, default=3_200)
    parser.add_argument("--transactions", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    tip = arguments.blocks + SETTLE_DEPTH - 1
    server = child("serve", str(arguments.port), str(tip), str(arguments.transactions), str(arguments.latency_ms))
    try:
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for scanners, measured in speeds.items():
                measured.append(measure(f"http://127.0.0.1:{arguments.port}", arguments.redis, scanners))
    finally:
        server.kill()
        server.wait()
    for scanners, measured in speeds.items():
        print(f"{scanners} scanner(s): {statistics.median(measured):8.0f} blocks/s   ({len(measured)} rounds)")
    print(f"      ratio: {statistics.median(speeds[2]) / statistics.median(speeds[1]):.2f}")


if __name__ == "__main__":
    main()
