"""What an audit asks beside blocks: balances at a block, and which tokens were ever sent to some addresses.

Asked by number, not by hash: not every node knows a state by its block's hash (EIP-1898). So the caller makes sure that
the block of that number is the one that it means, before and after.

**Declined.** A node that is no archive has the state of young blocks only, and many limit the range of `eth_getLogs`.
There is no code for either and each says it in its own words, so any JSON-RPC error to one of these questions counts as
`DECLINED`: the endpoint is as healthy as before, the next one is asked, and if none answers, NodeDeclined carries what
they said. A range of blocks whose answer is too large, or takes too long, is declined too: half of it may be given. A
single block that takes too long is a fault as everywhere.

**Tokens.** `balanceOf` (EIP-20) by `eth_call`. Where the contract gives no word, because it is not there yet, reverts
or has no such function, the balance counts as 0: there is nothing that could be swept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from wallet_core.addresses import Address, lower_hex, parse_address
from wallet_core.tokens import TRANSFER_TOPIC
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.execution_api import Ask, check_address, present, quantity
from wallet_workers.adapters.json_rpc import Answer, EndpointFault, Fault, RpcAnswer

BALANCE_OF = "0x70a08231"
"""Selector of `balanceOf(address)`."""
_REVERTED_CODE = 3
"""What nodes answer where a call was undone (execution-apis); others say it in the text."""
_REVERTED_TEXT = "revert"
_WORD_LENGTH = 2 + 64
_TOPICS = 3

T = TypeVar("T")


class _WireSent(msgspec.Struct, gc=False):
    address: str
    topics: tuple[str, ...]


_TEXT: Answer[str] = msgspec.json.Decoder(RpcAnswer[str])
_SENT: Answer[tuple[_WireSent, ...]] = msgspec.json.Decoder(RpcAnswer[tuple[_WireSent, ...]])


@dataclass(frozen=True)
class Sent:
    """A token that was sent to an address."""

    contract: str
    """0x and 40 lower-case hex digits."""
    recipient: Address


class AccountStates(EthereumNodes):
    """The nodes, with what an audit asks of them. Raises as `Node` does, and NodeDeclined."""

    async def balance(self, address: Address, number: int) -> int:
        """In wei, after the block of that number."""
        return await self._answer(lambda ask: _balance(ask, address, number))

    async def token_balance(self, contract: str, address: Address, number: int) -> int:
        """In the token's base units, after the block of that number; `contract` is lower-case hex."""
        return await self._answer(lambda ask: _token_balance(ask, contract, address, number))

    async def tokens_sent(self, recipients: Sequence[Address], first: int, last: int) -> Sequence[Sent]:
        """Every log of the form of ERC-20's Transfer to one of these addresses, in these blocks."""
        return await self._answer(lambda ask: _tokens_sent(ask, recipients, first, last))


async def _balance(ask: Ask, address: Address, number: int) -> int:
    answered = await _or_declined(ask, "eth_getBalance", (lower_hex(address), hex(number)), _TEXT)
    return quantity(answered, "balance")


async def _token_balance(ask: Ask, contract: str, address: Address, number: int) -> int:
    call = {"to": contract, "data": BALANCE_OF + address.hex().zfill(64)}
    try:
        word = present(await ask("eth_call", (call, hex(number)), _TEXT), "an answer of a contract")
    except EndpointFault as fault:
        if fault.rpc_code == _REVERTED_CODE or (fault.rpc_code is not None and _REVERTED_TEXT in str(fault).lower()):
            return 0
        raise _declined(fault) from None
    if len(word) < _WORD_LENGTH:
        return 0
    return quantity(word[:_WORD_LENGTH], "balance")


async def _tokens_sent(ask: Ask, recipients: Sequence[Address], first: int, last: int) -> Sequence[Sent]:
    words = ["0x" + address.hex().zfill(64) for address in recipients]
    asked = {"fromBlock": hex(first), "toBlock": hex(last), "topics": [TRANSFER_TOPIC, None, words]}
    known, found = set(words), []
    for log in await _or_declined(ask, "eth_getLogs", (asked,), _SENT, can_be_halved=first < last):
        check_address(log.address)
        if log.topics[:1] != (TRANSFER_TOPIC,) or not known.intersection(log.topics[2:3]):
            raise EndpointFault(Fault.INCONSISTENT, "among some tokens' logs is one that was not asked for")
        if len(log.topics) == _TOPICS:  # ERC-721 has a fourth
            found.append(Sent(log.address, parse_address("0x" + log.topics[2][-40:])))
    return found


async def _or_declined(
    ask: Ask, method: str, params: Sequence[object], answer: Answer[T], *, can_be_halved: bool = False
) -> T:
    try:
        return present(await ask(method, params, answer), f"an answer to {method}")
    except EndpointFault as fault:
        if can_be_halved and fault.fault is Fault.TIMEOUT:
            raise EndpointFault(Fault.DECLINED, str(fault)) from None
        raise _declined(fault) from None


def _declined(fault: EndpointFault) -> EndpointFault:
    is_declined = fault.fault in (Fault.RPC_ERROR, Fault.TOO_LARGE)
    return EndpointFault(Fault.DECLINED, str(fault), fault.rpc_code) if is_declined else fault
