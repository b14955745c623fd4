"""A node that lies, in front of a real one: each answer goes through a function that may change it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from aiohttp import web

Lie = Callable[[dict[str, Any], Any], Any]
"""From a JSON-RPC request and the true result to what is answered."""


def truth(_call: dict[str, Any], result: Any) -> Any:
    return result


def hide_transactions(call: dict[str, Any], result: Any) -> Any:
    """Blocks without transactions."""
    return {**result, "transactions": []} if call["method"].startswith("eth_getBlockBy") and result else result


def hide_logs(call: dict[str, Any], result: Any) -> Any:
    """No log anywhere: not by `eth_getLogs`, and not in any receipt."""
    match call["method"]:
        case "eth_getLogs":
            return []
        case "eth_getTransactionReceipt" if result:
            return {**result, "logs": []}
        case "eth_getBlockReceipts" if result:
            return [{**each, "logs": []} for each in result]
    return result


def fail_transactions(call: dict[str, Any], result: Any) -> Any:
    """Every transaction is said to have failed."""
    match call["method"]:
        case "eth_getTransactionReceipt" if result:
            return {**result, "status": "0x0"}
        case "eth_getBlockReceipts" if result:
            return [{**each, "status": "0x0"} for each in result]
    return result


LIES: dict[str, Lie] = {"no transaction": hide_transactions, "no log": hide_logs, "no success": fail_transactions}


@contextlib.asynccontextmanager
async def lying_node(url: str, lie: Lie) -> AsyncIterator[str]:
    """The URL of a node that has the other one's chain, and lies about it."""

    async def serve(request: web.Request) -> web.StreamResponse:
        call = await request.json()
        async with session.post(url, json=call) as response:
            answer = json.loads(await response.read())  # whatever the node says of its content's type
        if "result" in answer:
            answer["result"] = lie(call, answer["result"])
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
