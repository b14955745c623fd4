"""What counts as a deposit, on real nodes: tokens, and ETH moved inside contracts by both ways of tracing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

import evm
from devstack.services import Anvil, EthereumNode, Ganache
from wallet_core.addresses import Address, checksum_address, lower_hex, parse_address
from wallet_core.chain import BlockRef
from wallet_core.deposits import Deposit, Kind, calculate_event_id
from wallet_core.resource import parse_resource
from wallet_core.settings import Role, SyncSettings, environment, settings_from_environment
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.transfers import Scope
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.system_clock import SystemClock
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

ALICE = Address(b"\xa1" * 20)
BOB = Address(b"\xb0" * 20)
DEBUG, TRACE = "debug_traceBlockByHash", "trace_block"
GAS = 1_000_000


class Unobserved:
    def request_ended(self, endpoint: int, method: str, seconds: float) -> None: ...
    def endpoint_failed(self, endpoint: int, fault: Fault) -> None: ...
    def endpoint_changed(self, status: EndpointStatus) -> None: ...


@dataclass
class Feed:
    """Every address is published before anything is paid."""

    left: list[Address] = field(default_factory=list)

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        new, self.left = self.left, []
        if new:
            yield new


@contextlib.asynccontextmanager
async def without(methods: Set[str], url: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A node that lacks some methods, in front of a real one; with the methods that were asked for."""
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = json.loads(body)
        asked.append(call["method"])
        if call["method"] in methods:
            error = {"code": -32601, "message": "the method does not exist/is not available"}
            return web.json_response({"jsonrpc": "2.0", "id": call["id"], "error": error})
        async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=request.headers) as answer:
            return web.Response(body=await answer.read(), content_type="application/json")

    app = web.Application()
    app.router.add_post("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def settings(chain_id: int, assets: Sequence[dict[str, object]]) -> SyncSettings:
    document = {
        "apiVersion": "wallet-manager.dev/v1alpha1",
        "kind": "WalletManager",
        "metadata": {"name": "test"},
        "spec": {
            "chain": {"id": chain_id, "rpc": [{"url": "http://127.0.0.1:1"}]},
            "kafka": {"bootstrapServers": "127.0.0.1:1"},
            "redis": {"url": "redis://127.0.0.1:1/0"},
            "accounts": {"fingerprint": "00" * 20, "xpubFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
            "assets": assets,
        },
    }
    return settings_from_environment(SyncSettings, environment(parse_resource(document), Role.SYNC))


ETH: dict[str, object] = {"type": "native", "symbol": "ETH"}


def token_asset(contract: Address, symbol: str = "TOK", decimals: int = 6) -> dict[str, object]:
    return {"type": "erc20", "symbol": symbol, "contract": checksum_address(contract), "decimals": decimals}


@dataclass
class Chain:
    """A real chain that the test writes to."""

    service: EthereumNode
    sender: Address

    async def rpc(self, method: str, *params: object) -> Any:
        return await asyncio.to_thread(self.service.rpc, method, *params)

    async def send(self, to: Address | None, value_wei: int = 0, data: str = "0x", gas: int = GAS) -> dict[str, Any]:
        """The receipt of a transaction, mined in a block of its own."""
        transaction = {"from": lower_hex(self.sender), "value": hex(value_wei), "gas": hex(gas), "data": data}
        if to is not None:
            transaction["to"] = lower_hex(to)
        sent = await self.rpc("eth_sendTransaction", transaction)
        async with asyncio.timeout(10):
            while (receipt := await self.rpc("eth_getTransactionReceipt", sent)) is None:  # noqa: ASYNC110 - mined by itself
                await asyncio.sleep(0.01)
        found: dict[str, Any] = receipt
        return found

    async def create(self, runtime: bytes) -> Address:
        receipt = await self.send(None, data="0x" + evm.init_code(runtime).hex())
        assert receipt["status"] == "0x1"
        return parse_address(receipt["contractAddress"])

    async def deposits(
        self,
        receipt: dict[str, Any],
        *published: Address,
        assets: Sequence[dict[str, object]] = (ETH,),
        lacking: Set[str] = frozenset(),
    ) -> tuple[Deposit, ...]:
        """What the scanner finds in the receipt's block, on a node that lacks some methods."""
        number = int(receipt["blockNumber"], 16)
        own = settings(self.service.chain_id, assets)
        status = WorkerStatus(Role.SYNC, "default.test", "", FakeClock())
        async with (
            without(lacking, self.service.url) as (url, _),
            EthereumNodes(
                [Endpoint(url)],
                chain_id=self.service.chain_id,
                with_finalized=False,
                clock=SystemClock(),
                events=Unobserved(),
            ) as node,
        ):
            scanner = Scanner(own, node=node, feed=Feed(list(published)), status=status, metrics=Metrics(status))
            parent = await node.header(number - 1)
            scope = Scope({asset.key: 0 for asset in own.assets})
            (block,) = await scanner.scan(BlockRef(parent.number, parent.hash), number, number, scope)
        return block.deposits

    async def both_ways(self, receipt: dict[str, Any], *published: Address) -> tuple[Deposit, ...]:
        """The same by either way of tracing."""
        by_debug = await self.deposits(receipt, *published, lacking={TRACE})
        by_trace = await self.deposits(receipt, *published, lacking={DEBUG})
        assert by_debug == by_trace
        return by_debug


async def chain_of(service: EthereumNode) -> Chain:
    accounts = await asyncio.to_thread(service.rpc, "eth_accounts")
    return Chain(service, parse_address(accounts[0]))


@pytest.fixture
async def traced(anvil: Anvil) -> Chain:
    return await chain_of(anvil)


@pytest.fixture(params=["anvil", "ganache"])
async def chain(request: pytest.FixtureRequest) -> Chain:
    service: Anvil | Ganache = request.getfixturevalue(request.param)
    return await chain_of(service)


def paid(deposits: Sequence[Deposit]) -> list[tuple[Address, int]]:
    return [(each.recipient, each.amount) for each in deposits]


def frame_id(chain: Chain, receipt: dict[str, Any], ordinal: int) -> str:
    return calculate_event_id(chain.service.chain_id, receipt["transactionHash"], Kind.FRAME, ordinal)


def log_id(chain: Chain, receipt: dict[str, Any], position: int) -> str:
    return calculate_event_id(chain.service.chain_id, receipt["transactionHash"], Kind.LOG, position)


# --- ETH inside contracts -----------------------------------------------------------------------------------------


async def test_what_a_contract_pays_is_a_deposit(traced: Chain) -> None:
    """A call with value, with the contract as its sender and the place of the frame in its id."""
    forwarder = await traced.create(evm.FORWARDER)
    receipt = await traced.send(forwarder, 5, evm.call_data(ALICE))
    (deposit,) = await traced.both_ways(receipt, ALICE)
    assert (deposit.sender, deposit.recipient, deposit.amount) == (forwarder, ALICE, 5)
    assert (deposit.txid, deposit.event_id) == (receipt["transactionHash"], frame_id(traced, receipt, 0))


async def test_two_payments_of_one_transaction_are_two_deposits(traced: Chain) -> None:
    """Each has its own place."""
    contract = await traced.create(evm.FORWARDER_OF_ONE_WEI_TWICE)
    receipt = await traced.send(contract, 2, evm.call_data(ALICE))
    deposits = await traced.both_ways(receipt, ALICE)
    assert [each.event_id for each in deposits] == [frame_id(traced, receipt, ordinal) for ordinal in (0, 1)]
    assert paid(deposits) == [(ALICE, 1), (ALICE, 1)]


async def test_a_transaction_and_a_call_below_it_may_both_pay(traced: Chain) -> None:
    """The transaction's own value to one published address, which pays another: two deposits, two ids."""
    forwarder = await traced.create(evm.FORWARDER)
    receipt = await traced.send(forwarder, 5, evm.call_data(ALICE))
    own, inner = await traced.both_ways(receipt, ALICE, forwarder)
    assert paid([own, inner]) == [(forwarder, 5), (ALICE, 5)]
    assert own.event_id == calculate_event_id(traced.service.chain_id, receipt["transactionHash"], Kind.TRANSACTION, 0)


@pytest.mark.parametrize("name", ["DELEGATECALLER", "CALLCODER", "STATICCALLER"])
async def test_running_anothers_code_pays_nobody(name: str, traced: Chain) -> None:
    """Whatever value a node shows at a delegatecall or callcode: the ETH stays where it is."""
    contract = await traced.create(getattr(evm, name))
    receipt = await traced.send(contract, 5, evm.call_data(ALICE))
    assert receipt["status"] == "0x1"
    assert await traced.both_ways(receipt, ALICE) == ()


async def test_a_reverted_transaction_pays_nobody(traced: Chain) -> None:
    """Its inner call was good, and is undone with it."""
    contract = await traced.create(evm.REVERTING_FORWARDER)
    receipt = await traced.send(contract, 5, evm.call_data(ALICE))
    assert receipt["status"] == "0x0"
    assert await traced.both_ways(receipt, ALICE) == ()


async def test_a_good_call_under_a_reverted_one_pays_nobody_and_has_no_place(traced: Chain) -> None:
    """The transaction succeeds; what the reverted call paid is undone, and what comes after it is number 0."""
    reverting = await traced.create(evm.REVERTING_FORWARDER)
    to, relay = evm.code(int.from_bytes(BOB, "big")), evm.code(int.from_bytes(reverting, "big"))
    contract = await traced.create(evm.relay_then_pay_one_wei(to, relay))
    receipt = await traced.send(contract, 10, evm.call_data(ALICE))
    deposits = await traced.both_ways(receipt, ALICE, BOB)
    assert paid(deposits) == [(BOB, 1)]
    assert deposits[0].event_id == frame_id(traced, receipt, 0)


async def test_a_good_call_under_a_good_one_comes_before_what_follows(traced: Chain) -> None:
    """Pre-order: the relay's own 5 wei are number 0, what it pays on 1, what comes after 2."""
    forwarder = await traced.create(evm.FORWARDER)
    to, relay = evm.code(int.from_bytes(BOB, "big")), evm.code(int.from_bytes(forwarder, "big"))
    contract = await traced.create(evm.relay_then_pay_one_wei(to, relay))
    receipt = await traced.send(contract, 10, evm.call_data(ALICE))
    deposits = await traced.both_ways(receipt, ALICE, BOB, forwarder)
    assert paid(deposits) == [(forwarder, 5), (ALICE, 5), (BOB, 1)]
    assert [each.event_id for each in deposits] == [frame_id(traced, receipt, place) for place in range(3)]


async def test_a_contract_created_with_value_is_paid(traced: Chain) -> None:
    """CREATE2 and CREATE move ETH to the new contract."""
    creator2 = await traced.create(evm.CREATOR2)
    receipt = await traced.send(creator2, 5)
    assert paid(await traced.both_ways(receipt, evm.created2(creator2))) == [(evm.created2(creator2), 5)]
    creator = await traced.create(evm.CREATOR)
    receipt = await traced.send(creator, 6)
    assert paid(await traced.both_ways(receipt, evm.created(creator, 1))) == [(evm.created(creator, 1), 6)]


async def test_a_self_destruct_pays_its_beneficiary(traced: Chain) -> None:
    """The contract's whole balance arrives without any code of the beneficiary being run."""
    contract = await traced.create(evm.SELF_DESTROYER)
    receipt = await traced.send(contract, 5, evm.call_data(ALICE))
    (deposit,) = await traced.both_ways(receipt, ALICE)
    assert (deposit.sender, deposit.amount, deposit.event_id) == (contract, 5, frame_id(traced, receipt, 0))


async def test_a_self_destruct_in_its_own_favour_pays_nobody(traced: Chain) -> None:
    """Nothing moves."""
    contract = await traced.create(evm.SELF_DESTROYER)
    receipt = await traced.send(contract, 5, evm.call_data(contract))
    assert paid(await traced.both_ways(receipt, contract)) == [(contract, 5)]  # the transaction's own value only


async def test_payments_to_precompiled_contracts_have_no_place(traced: Chain) -> None:
    """Nodes differ in showing them, so they must not shift the places of others."""
    contract = await traced.create(evm.PRECOMPILE_THEN_FORWARDER)
    receipt = await traced.send(contract, 2, evm.call_data(ALICE))
    (deposit,) = await traced.both_ways(receipt, ALICE)
    assert deposit.event_id == frame_id(traced, receipt, 0)


async def test_hundreds_of_nested_calls_are_no_trouble(traced: Chain) -> None:
    """Anybody can put such a transaction into a block, and the wallet must not stop at it."""
    contract = await traced.create(evm.RECURSION_THEN_ONE_WEI)
    receipt = await traced.send(contract, 1, evm.call_data(ALICE), gas=29_000_000)
    assert receipt["status"] == "0x1"
    traces = await traced.rpc(TRACE, receipt["blockNumber"])
    assert max(len(each["traceAddress"]) for each in traces) > 500  # beyond what the decoder takes by itself
    (deposit,) = await traced.both_ways(receipt, ALICE)
    assert (deposit.amount, deposit.event_id) == (1, frame_id(traced, receipt, 0))


@pytest.mark.parametrize("lacking", [{TRACE}, {DEBUG}])
async def test_a_transaction_too_heavy_to_trace_hides_no_other(lacking: set[str], traced: Chain) -> None:
    """It costs its sender next to nothing; what the contract beside it pays is reported, under the same id."""
    forwarder, heavy = await traced.create(evm.FORWARDER), await traced.create(evm.HEAVY_TO_TRACE)
    await traced.rpc("evm_setAutomine", False)
    try:
        sender = {"from": lower_hex(traced.sender)}
        await traced.rpc("eth_sendTransaction", {**sender, "to": lower_hex(heavy), "gas": hex(200_000)})
        payment = {**sender, "to": lower_hex(forwarder), "gas": hex(GAS), "value": hex(5), "data": evm.call_data(ALICE)}
        paying = await traced.rpc("eth_sendTransaction", payment)
        await traced.rpc("evm_mine")
    finally:
        await traced.rpc("evm_setAutomine", True)
    receipt = await traced.rpc("eth_getTransactionReceipt", paying)
    block = await traced.rpc("eth_getBlockByNumber", receipt["blockNumber"], False)
    assert len(block["transactions"]) == 2
    with capture_logs() as logs:
        (deposit,) = await traced.deposits(receipt, ALICE, lacking=lacking)
    assert (deposit.amount, deposit.event_id) == (5, frame_id(traced, receipt, 0))
    (untraced,) = [each for each in logs if each["event"] == "transactions_untraced"]
    assert untraced["transactions"] == [each for each in block["transactions"] if each != paying]


async def test_a_creation_by_transaction_pays_the_contract_in_its_receipt(chain: Chain) -> None:
    """`to` is null: the recipient is the receipt's contract, with traces and without."""
    nonce = int(await chain.rpc("eth_getTransactionCount", lower_hex(chain.sender), "latest"), 16)
    receipt = await chain.send(None, 5, "0x" + evm.init_code(b"\x00").hex())
    contract = parse_address(receipt["contractAddress"])
    assert nonce >= 0x80 or evm.created(chain.sender, nonce) == contract
    (deposit,) = await chain.deposits(receipt, contract)
    assert (deposit.recipient, deposit.amount) == (contract, 5)
    assert deposit.event_id == calculate_event_id(
        chain.service.chain_id, receipt["transactionHash"], Kind.TRANSACTION, 0
    )


async def test_without_traces_transactions_still_pay(chain: Chain) -> None:
    """A node that has neither way of tracing: what contracts pay is not seen, and all else is."""
    receipt = await chain.send(ALICE, 5)
    assert paid(await chain.deposits(receipt, ALICE, lacking={DEBUG, TRACE})) == [(ALICE, 5)]
    forwarder = await chain.create(evm.FORWARDER)
    receipt = await chain.send(forwarder, 5, evm.call_data(ALICE))
    assert await chain.deposits(receipt, ALICE, lacking={DEBUG, TRACE}) == ()


# --- tokens -------------------------------------------------------------------------------------------------------


async def test_a_tokens_transfer_is_a_deposit(chain: Chain) -> None:
    """Sender, recipient and amount are those of the log; the id has the log's place in its transaction."""
    token = await chain.create(evm.TOKEN)
    receipt = await chain.send(token, 0, evm.call_data(ALICE, 1_500_000))
    (deposit,) = await chain.deposits(receipt, ALICE, assets=[ETH, token_asset(token)])
    assert (deposit.sender, deposit.recipient, deposit.amount) == (chain.sender, ALICE, 1_500_000)
    assert (deposit.asset.symbol, deposit.asset.contract, deposit.asset.decimals) == (
        "TOK",
        checksum_address(token),
        6,
    )
    assert deposit.event_id == log_id(chain, receipt, 0)


async def test_a_token_that_logs_twice_pays_twice(chain: Chain) -> None:
    """Each log is a transfer with an id of its own."""
    token = await chain.create(evm.TOKEN_LOGGING_TWICE)
    receipt = await chain.send(token, 0, evm.call_data(ALICE, 7))
    deposits = await chain.deposits(receipt, ALICE, assets=[token_asset(token)])
    assert [(each.amount, each.event_id) for each in deposits] == [
        (7, log_id(chain, receipt, 0)),
        (7, log_id(chain, receipt, 1)),
    ]


async def test_of_a_token_with_a_fee_the_logged_amount_counts(chain: Chain) -> None:
    """The log to the recipient says what arrives; its place counts the fee's log before it, seen or not."""
    token = await chain.create(evm.TOKEN_TAKING_A_FEE)
    receipt = await chain.send(token, 0, evm.call_data(ALICE, 1_000))
    (deposit,) = await chain.deposits(receipt, ALICE, assets=[token_asset(token)])
    assert (deposit.amount, deposit.event_id) == (990, log_id(chain, receipt, 1))


async def test_logs_of_another_form_and_of_nothing_are_passed_over(chain: Chain) -> None:
    """ERC-721's, short and unindexed ones mean nothing for sure; the good one after them keeps its place."""
    token = await chain.create(evm.TOKEN_OF_ODD_FORMS)
    receipt = await chain.send(token, 0, evm.call_data(ALICE, 7))
    (deposit,) = await chain.deposits(receipt, ALICE, assets=[token_asset(token)])
    assert deposit.event_id == log_id(chain, receipt, 3)
    receipt = await chain.send(token, 0, evm.call_data(ALICE, 0))
    assert await chain.deposits(receipt, ALICE, assets=[token_asset(token)]) == ()


async def test_a_token_that_is_not_listed_pays_nobody(chain: Chain) -> None:
    """Anybody can make a contract that logs anything."""
    listed, other = await chain.create(evm.TOKEN), await chain.create(evm.TOKEN)
    receipt = await chain.send(other, 0, evm.call_data(ALICE, 7))
    assert await chain.deposits(receipt, ALICE, assets=[ETH, token_asset(listed)]) == ()


async def test_a_wallet_of_tokens_only_asks_for_no_traces(chain: Chain) -> None:
    """Nor does it report the chain's own coin."""
    token = await chain.create(evm.TOKEN)
    await chain.send(ALICE, 5)
    receipt = await chain.send(token, 0, evm.call_data(ALICE, 7))
    own = settings(chain.service.chain_id, [token_asset(token)])
    status = WorkerStatus(Role.SYNC, "default.test", "", FakeClock())
    number = int(receipt["blockNumber"], 16)
    async with (
        without(set(), chain.service.url) as (url, asked),
        EthereumNodes(
            [Endpoint(url)],
            chain_id=chain.service.chain_id,
            with_finalized=False,
            clock=SystemClock(),
            events=Unobserved(),
        ) as node,
    ):
        scanner = Scanner(own, node=node, feed=Feed([ALICE]), status=status, metrics=Metrics(status))
        parent = await node.header(number - 2)
        blocks = await scanner.scan(
            BlockRef(parent.number, parent.hash), number - 1, number, Scope({asset.key: 0 for asset in own.assets})
        )
    assert [paid(block.deposits) for block in blocks] == [[], [(ALICE, 7)]]
    assert not {DEBUG, TRACE} & set(asked)
    assert asked.count("eth_getLogs") == 1  # the other block's bloom excludes the token
