"""A chain full of deposits on anvil, and a scan of it that shares nothing with the wallet but the JSON-RPC.

Blocks hold a transfer of ETH, one of a token, and ETH that a contract pays, all to watched addresses, beside what is no
deposit: a stranger's transfer, the same log of another token, a reverted payment. Blocks come only when told to.

A fork drops what one sender sent, which the chain then never has again, and moves what the other sent to later blocks.
"""

import asyncio
import json
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

import evm
from devstack.services import Anvil
from wallet_core.addresses import checksum_address, parse_address

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""keccak256 of `Transfer(address,address,uint256)`."""
STRANGER = "0x" + "57" * 20
CALLS_AT_ONCE = 250
"""Of one JSON-RPC batch."""
RPC_SECONDS_MAX = 60
GAS = hex(200_000)
TOKEN_SYMBOL = "TOK"


class Paid(NamedTuple):
    """A deposit, as the chain has it."""

    block_number: int
    block_hash: str
    txid: str
    to: str
    """In lower case."""
    symbol: str
    amount: int
    """In base units."""


class DepositChain:
    """See the module. `keeper` and `dropper` send; what a fork does to their transactions tells them apart."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.keeper = self.dropper = ""
        self.token = self._other_token = self._forwarder = self._reverter = ""
        self._sent = 0

    async def begin(self) -> None:
        """Create the contracts."""
        self.keeper, self.dropper = (await self.rpc("eth_accounts"))[:2]
        kinds = [evm.TOKEN, evm.TOKEN, evm.FORWARDER, evm.REVERTING_FORWARDER]
        calls = [self._transaction(self.keeper, data="0x" + evm.init_code(kind).hex()) for kind in kinds]
        created = await self.batch(calls)
        await self.mine()
        receipts = await self.batch([("eth_getTransactionReceipt", [txid]) for txid in created])
        contracts = [str(receipt["contractAddress"]) for receipt in receipts]
        self.token, self._other_token, self._forwarder, self._reverter = contracts

    @property
    def asset(self) -> dict[str, Any]:
        """The token, for a resource."""
        contract = checksum_address(parse_address(self.token))
        return {"type": "erc20", "symbol": TOKEN_SYMBOL, "contract": contract, "decimals": 6}

    # --- writing ------------------------------------------------------------------------------------------------------

    async def deposit(self, sender: str, address: str) -> None:
        """Send a deposit of each kind, and what looks like one. The next block has them."""
        self._sent += 1
        to = parse_address(address)
        transfer, payment = evm.call_data(to, 1_000_000 + self._sent), evm.call_data(to)
        calls = [
            self._transaction(sender, to=address, value=10**15 + self._sent),
            self._transaction(sender, to=self.token, data=transfer),
            self._transaction(sender, to=self._forwarder, value=10**12 + self._sent, data=payment),
            self._transaction(sender, to=STRANGER, value=self._sent),
            self._transaction(sender, to=self._other_token, data=transfer),
            self._transaction(sender, to=self._reverter, value=self._sent, data=payment),
        ]
        await self.batch(calls)

    async def grow(self, blocks: int, every: int, addresses: Sequence[str]) -> None:
        """Add so many blocks, with deposits in one of each `every`, from both senders in turns."""
        for number in range(blocks // every):
            sender = (self.keeper, self.dropper)[number % 2]
            await self.deposit(sender, addresses[number % len(addresses)])
            await self.mine(every)

    async def mine(self, blocks: int = 1) -> None:
        """The first has what was sent."""
        await self.rpc("anvil_mine", hex(blocks))

    async def fork(self, depth: int) -> None:
        """Replace the newest blocks by as many others: what the keeper sent is one block later, the rest is gone."""
        tip = await self.height()
        numbers = range(tip - depth + 1, tip + 1)
        old = await self.batch([("eth_getBlockByNumber", [hex(number), True]) for number in numbers])
        kept = [
            (each["hash"], min(place + 1, depth - 1))
            for place, block in enumerate(old)
            for each in block["transactions"]
            if each["from"] == self.keeper
        ]
        raws = await self.batch([("eth_getRawTransactionByHash", [txid]) for txid, _ in kept])
        await self.rpc("anvil_reorg", depth, [[raw, place] for raw, (_, place) in zip(raws, kept, strict=True)])
        new = await self.batch([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        assert not {block["hash"] for block in old} & {block["hash"] for block in new}
        assert {txid for txid, _ in kept} == {txid for block in new for txid in block["transactions"]}

    # --- reading ------------------------------------------------------------------------------------------------------

    async def height(self) -> int:
        """The newest block's number."""
        return int(await self.rpc("eth_blockNumber"), 16)

    async def scan(self, addresses: Sequence[str]) -> list[Paid]:
        """Every deposit to these addresses on the chain as it is now, in the order of its blocks."""
        watched = {address.lower() for address in addresses}
        numbers = range(await self.height() + 1)
        blocks = await self.batch([("eth_getBlockByNumber", [hex(number), True]) for number in numbers])
        full = [block for block in blocks if block["transactions"]]
        receipts = await self.batch([("eth_getBlockReceipts", [block["number"]]) for block in full])
        traces = await self.batch([("trace_block", [block["number"]]) for block in full])
        found = []
        for block, said, traced in zip(full, receipts, traces, strict=True):
            place = (int(block["number"], 16), block["hash"])
            good = {each["transactionHash"] for each in said if each["status"] == "0x1"}
            found += [
                Paid(*place, each["hash"], each["to"], "ETH", int(each["value"], 16))
                for each in block["transactions"]
                if each["hash"] in good and each["to"] in watched
            ]
            found += [
                Paid(*place, log["transactionHash"], to, TOKEN_SYMBOL, int(log["data"], 16))
                for each in said
                for log in each["logs"]
                if log["address"] == self.token
                and log["topics"][0] == TRANSFER
                and (to := "0x" + log["topics"][2][-40:]) in watched
            ]
            found += [
                Paid(*place, frame["transactionHash"], to, "ETH", int(frame["action"]["value"], 16))
                for frame in traced
                if frame["type"] == "call"
                and frame["traceAddress"]
                and frame["transactionHash"] in good
                and (to := frame["action"]["to"]) in watched
            ]
        return found

    async def rpc(self, method: str, *params: Any) -> Any:
        """One call's result."""
        return (await self.batch([(method, list(params))]))[0]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The calls' results, in their order."""
        results: list[Any] = []
        for start in range(0, len(calls), CALLS_AT_ONCE):
            results += await asyncio.to_thread(self._ask, calls[start : start + CALLS_AT_ONCE])
        return results

    def _ask(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.anvil.url, json.dumps(body).encode(), headers)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=RPC_SECONDS_MAX) as response:  # noqa: S310 - loopback
            answers = {answer["id"]: answer for answer in json.load(response)}
        assert all("error" not in answer for answer in answers.values()), answers
        return [answers[number]["result"] for number in range(len(calls))]

    @staticmethod
    def _transaction(sender: str, *, value: int = 0, **more: str) -> tuple[str, list[Any]]:
        return "eth_sendTransaction", [{"from": sender, "gas": GAS, "value": hex(value), **more}]
