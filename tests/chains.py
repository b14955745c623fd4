"""Short ways to write blocks, windows and moves, for tests of the chain automaton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wallet_core.addresses import Address
from wallet_core.amounts import BaseUnits
from wallet_core.blocks import Head, Header
from wallet_core.chain import (
    BlockRef,
    Horizon,
    Move,
    Rules,
    Window,
    WindowBlock,
    extend,
)
from wallet_core.deposits import Deposit
from wallet_core.messages import TransactionAsset

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
ALICE = Address(b"\xaa" * 20)
BASE = BlockRef(100, "a100")
BLOCKS_MAX = 64


def deposit(name: str) -> Deposit:
    return Deposit(name, f"tx-{name}", Address(b"\x01" * 20), ALICE, BaseUnits(1), ETH)


def branch(
    name: str, parent: BlockRef, count: int, deposits: Mapping[int, Sequence[str]] | None = None
) -> tuple[WindowBlock, ...]:
    """Blocks `<name><number>` on top of a parent, with deposits by block number."""
    blocks = []
    for number in range(parent.number + 1, parent.number + 1 + count):
        paid = tuple(deposit(each) for each in (deposits or {}).get(number, ()))
        block = WindowBlock(number, f"{name}{number}", parent.hash, 12 * number, paid)
        blocks.append(block)
        parent = block.ref
    return tuple(blocks)


def tip_only(number: int) -> Horizon:
    return Horizon(number)


def grown(rules: Rules, count: int, deposits: Mapping[int, Sequence[str]] | None = None) -> Move:
    """One move by branch a's first blocks above the base, with a horizon that sees no further."""
    return extend(Window(BASE), rules, branch("a", BASE, count, deposits), tip_only(BASE.number + count))


def said(move: Move) -> list[tuple[str, str, int, int]]:
    """What a move says: status, deposit, block number, confirmations."""
    return [
        (each.status.value, each.deposit.event_id, each.block_number, each.confirmations) for each in move.announcements
    ]


def numbers(window: Window) -> list[int]:
    return [block.number for block in window.blocks]


def confirmed_numbers(window: Window) -> list[int]:
    return [block.number for block in window.blocks if block.confirmed]


def head(tip: str, finalized: str | None = None) -> Head:
    """A node's head from block names such as `a105`."""
    made = [
        Header(int(name[1:]), name, f"{name[0]}{int(name[1:]) - 1}", 0) if name else None for name in (tip, finalized)
    ]
    assert made[0] is not None
    return Head(made[0], made[1])
