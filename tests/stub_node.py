"""A node on loopback that misbehaves as told, and `EthereumNodes` over it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from wallet_core.addresses import Address
from wallet_core.blocks import Log
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault

CHAIN_ID = 1337
SHORT_SECONDS = 0.3
"""A request's time-out in tests of nodes that never answer; everybody else has a long one."""
KEY = "s3cr3t-k3y-0123456789abcdef"
OURS = Address(b"\x07" * 20)
Respond = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


class Stub:
    """A node of a fake chain on 127.0.0.1, which does as `respond` says where that is set."""

    def __init__(self, chain: FakeChain) -> None:
        self.chain = chain
        self.respond: Respond | None = None
        self.methods: list[str] = []
        self.encodings: set[str | None] = set()
        self.tags = {"latest": chain.tip.number}
        self.sockets: list[web.WebSocketResponse] = []
        self.subscribes = True
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._serve)
        app.router.add_get("/{path:.*}", self._push)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            for socket in self.sockets:
                await socket.close()
            self.sockets.clear()
            await self._runner.cleanup()
            self._runner = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"{self.origin}/v3/{KEY}")

    @property
    def pushing_endpoint(self) -> Endpoint:
        return Endpoint(f"{self.origin}/v3/{KEY}", f"ws://127.0.0.1:{self.port}/ws/{KEY}")

    async def announce(self) -> None:
        for socket in self.sockets:
            await socket.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": {"result": {}}})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        call = await request.json()
        self.methods.append(call["method"])
        self.encodings.add(request.headers.get("Accept-Encoding"))
        if self.respond is not None:
            return await self.respond(call)
        return self.answer(call)

    def answer(self, call: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": self.result(call)})

    def result(self, call: dict[str, Any]) -> Any:
        if call["method"] == "eth_chainId":
            return hex(self.chain.chain_id)
        if call["method"] == "eth_getTransactionReceipt":
            return self._receipt(call["params"][0])
        if call["method"] == "eth_getLogs":
            return self._logs(call["params"][0])
        if call["method"] == "eth_getBlockByHash":
            numbers = {block.header.hash: block.header.number for block in self.chain.blocks}
            return self._block(numbers[call["params"][0]], False) if call["params"][0] in numbers else None
        tag, with_transactions = call["params"]
        return self._block(self.tags[tag] if tag in self.tags else int(tag, 16), with_transactions)

    def _block(self, number: int, with_transactions: bool) -> Any:
        if number >= len(self.chain.blocks):
            return None
        block = self.chain.blocks[number]
        header = block.header
        bodies = [{"hash": t.hash, "from": t.from_, "to": t.to, "value": t.value} for t in block.transactions]
        return {
            "number": hex(header.number),
            "hash": header.hash,
            "parentHash": header.parent_hash,
            "timestamp": hex(header.timestamp),
            "logsBloom": header.logs_bloom,
            "transactions": bodies if with_transactions else [body["hash"] for body in bodies],
            "withdrawalsRoot": "0x" + "56" * 32,
            "withdrawals": [
                {
                    "index": hex(each.index),
                    "validatorIndex": hex(each.validator_index),
                    "address": each.address,
                    "amount": hex(each.amount_gwei),
                }
                for each in block.withdrawals
            ],
        }

    def _receipt(self, transaction_hash: str) -> Any:
        found = self.chain.receipt(transaction_hash)
        if found is None:
            return None
        status = "0x1" if found.succeeded else "0x0"
        return {
            "transactionHash": transaction_hash,
            "blockHash": found.block_hash,
            "status": status,
            "logs": [_log(each) for each in found.logs],
            "contractAddress": found.contract_address,
        }

    def _logs(self, wanted: dict[str, Any]) -> Any:
        for block in self.chain.blocks:
            if block.header.hash == wanted["blockHash"]:
                return [
                    _log(each)
                    for each in self.chain.logs(block)
                    if each.address in wanted["address"] and each.topics[0] in wanted["topics"]
                ]
        return []  # as some nodes say of a block that they do not know

    async def _push(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if self.subscribes:
                await socket.send_json({"jsonrpc": "2.0", "id": json.loads(message.data)["id"], "result": "0x1"})
                self.sockets.append(socket)
        return socket


def _log(log: Log) -> dict[str, Any]:
    return {
        "address": log.address,
        "topics": list(log.topics),
        "data": log.data,
        "blockHash": log.block_hash,
        "transactionHash": log.transaction_hash,
        "logIndex": hex(log.index),
        "removed": False,
    }


class Seen:
    """What the adapter told its observer."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, Fault]] = []
        self.changes: list[EndpointStatus] = []
        self.requests: list[tuple[int, str]] = []

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((endpoint, method))

    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        self.faults.append((endpoint, fault))

    def endpoint_changed(self, status: EndpointStatus) -> None:
        self.changes.append(status)


Make = Callable[..., Awaitable[Stub]]


def new_chain(chain_id: int = CHAIN_ID) -> FakeChain:
    chain = FakeChain(chain_id)
    chain.mine(chain.transfer(OURS, 5), chain.transfer(None, 0, fails=True))
    chain.mine_empty(2)
    return chain


@contextlib.asynccontextmanager
async def nodes_of(
    *endpoints: Endpoint,
    clock: FakeClock,
    seen: Seen,
    with_finalized: bool = False,
    timeout: float = 30.0,
    quorum: int = 1,
    verify: bool = False,
    stale_after_seconds: float = 0,
) -> AsyncIterator[EthereumNodes]:
    tasks_before = asyncio.all_tasks()
    async with EthereumNodes(
        endpoints,
        chain_id=CHAIN_ID,
        with_finalized=with_finalized,
        clock=clock,
        events=seen,
        quorum=quorum,
        verify=verify,
        stale_after_seconds=stale_after_seconds,
        request_timeout_seconds=timeout,
    ) as nodes:
        yield nodes
    left = {task for task in asyncio.all_tasks() - tasks_before if "wallet_workers" in repr(task.get_coro())}
    assert not left


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the conditions are counters and states, nobody's event
            await asyncio.sleep(0.001)


def assert_no_secret(*texts: object) -> None:
    assert not [text for text in map(str, texts) if KEY in text or KEY[:8] in text]


async def reply(response: web.StreamResponse) -> web.StreamResponse:
    return response


async def stall(_call: dict[str, Any]) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def fail(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=500, text=f"for {KEY}")


async def rate_limit(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=429)


async def speak_html(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text=f"<html>{KEY}</html>", content_type="text/html")


async def speak_noise(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(body=b"\xff\xfe\x00" + KEY.encode())


async def refuse(call: dict[str, Any]) -> web.StreamResponse:
    return web.json_response(
        {"id": call["id"], "error": {"code": -32005, "message": f"key {KEY}\nhas no credits" + "x" * 900}}
    )


async def redirect(_call: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/elsewhere"})


FAULTS: dict[str, tuple[Respond, Fault]] = {
    "stalls": (stall, Fault.TIMEOUT),
    "HTTP 500": (fail, Fault.HTTP),
    "HTTP 429": (rate_limit, Fault.HTTP),
    "HTTP 307": (redirect, Fault.HTTP),
    "HTML": (speak_html, Fault.NOT_JSON),
    "noise": (speak_noise, Fault.NOT_JSON),
    "JSON-RPC error": (refuse, Fault.RPC_ERROR),
}
