"""Transactions of every kind, and what each of them moves.

What a transaction moves is written into the history by whoever makes it. Most do the same in whichever block they are.
Some do not, for a contract may look at the state that it finds: they succeed in one block and fail in another, or log
and pay in another order; the miner chooses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from simulation.history import History, Movement, Placed
from simulation.wallet_resource import OTHER_TOKEN, SYMBOLS, TOKEN, account_keys
from wallet_core.addresses import Address, lower_hex, parse_address
from wallet_core.blocks import Frame, FrameKind, Transaction, Withdrawal
from wallet_core.testing.fake_chain import STRANGER, FakeChain, LogContent, Outcome, transfer_log

CONTRACT = Address(b"\x0c" * 20)
Alternatives = Sequence[tuple[Outcome, Sequence[Placed]]]


class Payments:
    """See the module."""

    def __init__(
        self, chain: FakeChain, history: History, choice: random.Random, published: Callable[[], Iterable[str]]
    ) -> None:
        self._chain = chain
        self._history = history
        self._choice = choice
        self._published = published
        self.alternatives: dict[str, Alternatives] = {}
        """What transactions, by their hash, may do; the others do always the same."""
        self.minted: dict[Withdrawal, Movement] = {}

    def make(self) -> Transaction:
        """A new transaction of some kind."""
        choice, chain = self._choice, self._chain
        published = [parse_address(address) for address in self._published()]
        amount = choice.choice((0, 1, 10**15, choice.randint(1, 10**20)))
        kind = choice.random()
        if not published or kind < 0.1:
            return self.stranger(amount)
        to = choice.choice(published)
        if kind < 0.2:
            return self._moving(chain.transfer(to, amount, fails=True), ())
        if kind < 0.25:
            return self._moving(chain.transfer(None, amount), ())
        if kind < 0.3:
            return self._paid(chain.transfer(to, amount, sender=account_keys().gas_address), to, amount)
        if kind < 0.45:
            return self._tokens(to)
        if kind < 0.55:
            return self._inner(to)
        if kind < 0.75:
            return self._fickle(to, max(amount, 1))
        return self._paid(chain.transfer(to, amount), to, amount)

    def stranger(self, amount: int = 1) -> Transaction:
        """One that is none of the wallet's business."""
        return self._moving(self._chain.transfer(Address(self._choice.randbytes(20)), amount), ())

    def withdrawal(self) -> Withdrawal:
        """A payment from the beacon chain."""
        choice = self._choice
        published = [parse_address(address) for address in self._published()]
        to = choice.choice(published) if published and choice.random() < 0.8 else Address(choice.randbytes(20))
        withdrawal = self._chain.withdrawal(to, choice.randint(1, 10**12), choice.randint(1, 3))
        self.minted[withdrawal] = Movement(None, "ETH", None, lower_hex(to), withdrawal.amount_gwei * 10**9)
        return withdrawal

    def _paid(self, made: Transaction, to: Address, amount: int) -> Transaction:
        movement = Movement(made.hash, "ETH", made.from_, lower_hex(to), amount)
        return self._moving(made, [(movement, "value")] if amount else ())

    def _tokens(self, to: Address) -> Transaction:
        """Logs of both tokens in one transaction which may fail."""
        choice = self._choice
        fails = choice.random() < 0.1
        amounts = [choice.choice((0, 1, choice.randint(1, 10**12))) for _ in range(choice.randint(1, 3))]
        logs = [transfer_log(TOKEN, to, amount) for amount in amounts]
        logs += [transfer_log(OTHER_TOKEN, to, 5) for _ in range(choice.randint(0, 2))]
        choice.shuffle(logs)
        made = self._chain.transfer(TOKEN, 0, fails=fails, logs=logs)
        return self._moving(made, () if fails else _logged(made, to, logs))

    def _inner(self, to: Address) -> Transaction:
        """A contract that pays: by calls that count, and by some that do not."""
        choice = self._choice
        contract, recipient = lower_hex(CONTRACT), lower_hex(to)
        frames: list[Frame] = []
        moved: list[int] = []
        for _ in range(choice.randint(1, 3)):
            amount = choice.choice((0, 7, choice.randint(1, 10**18)))
            kind = choice.choice((FrameKind.CALL, FrameKind.CALL, FrameKind.DELEGATECALL, FrameKind.CALLCODE))
            failed = choice.random() < 0.3
            frames.append(Frame(kind, 1, contract, recipient, amount, failed))
            moved += [amount] if amount and kind is FrameKind.CALL and not failed else []
            if failed and choice.random() < 0.5:  # what is below a failed call is undone with it
                frames.append(Frame(FrameKind.CALL, 2, recipient, recipient, 9, failed=False))
        fails = choice.random() < 0.1
        made = self._chain.transfer(CONTRACT, 10**18, fails=fails, calls=frames)
        movements = [Movement(made.hash, "ETH", contract, recipient, amount) for amount in moved]
        return self._moving(made, () if fails else [(each, f"frame {at}") for at, each in enumerate(movements)])

    def _fickle(self, to: Address, amount: int) -> Transaction:
        """One that does something else in another block."""
        chain = self._chain
        failing: tuple[Outcome, Sequence[Placed]] = (Outcome(fails=True), ())
        match self._choice.choice(("value", "logs", "frames")):
            case "value":
                made = chain.transfer(to, amount)
                movement = Movement(made.hash, "ETH", made.from_, lower_hex(to), amount)
                options: Alternatives = [(Outcome(), [(movement, "value")]), failing]
            case "logs":
                made = chain.transfer(TOKEN, 0)
                paid, other = transfer_log(TOKEN, to, amount), transfer_log(OTHER_TOKEN, to, 5)
                orders = ([paid], [other, paid], [other, other, paid])
                options = [*((Outcome(logs=logs), _logged(made, to, logs)) for logs in orders), failing]
            case _:
                made = chain.transfer(CONTRACT, 0)
                contract, recipient = lower_hex(CONTRACT), lower_hex(to)
                movement = Movement(made.hash, "ETH", contract, recipient, amount)
                pays = Frame(FrameKind.CALL, 1, contract, recipient, amount, failed=False)
                before = Frame(FrameKind.CALL, 1, contract, lower_hex(STRANGER), 3, failed=False)
                options = [
                    (Outcome(calls=[pays]), [(movement, "frame 0")]),
                    (Outcome(calls=[before, pays]), [(movement, "frame 1")]),
                    failing,
                ]
        self.alternatives[made.hash] = options
        return self._moving(made, ())

    def _moving(self, transaction: Transaction, movements: Sequence[Placed]) -> Transaction:
        self._history.moves(transaction.hash, movements)
        return transaction


def _logged(made: Transaction, to: Address, logs: Sequence[LogContent]) -> list[Placed]:
    """What a transaction's logs say, each at its place among them."""
    placed = []
    for at, (contract, _, data) in enumerate(logs):
        if amount := int(data, 16):
            symbol = SYMBOLS[lower_hex(contract)]
            placed.append((Movement(made.hash, symbol, lower_hex(STRANGER), lower_hex(to), amount), f"log {at}"))
    return placed
