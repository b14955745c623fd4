"""Deposits that flow while something happens to a wallet, and the books that must come of them."""

import contextlib
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator

from e2e.kubectl import Document, KubectlFailed
from e2e.wallets import EVENTS_SECONDS_MAX, IN_POD, NODE_URL, TOOLS, Wallet

PAYMENT_SECONDS = 0.2
"""Between two payments; Ganache makes a block a second."""
END_SECONDS_MAX = 60


@contextlib.contextmanager
def paying(wallet: Wallet, addresses: Collection[str]) -> Iterator[list[Document]]:
    """Pay the addresses in turn meanwhile. The list is full at the end: {txid, to, amount} of each payment.

    Raises KubectlFailed where the payer failed: then nobody knows what was paid.
    """
    payments: list[Document] = []
    kubectl = wallet.kubectl
    pay = [*IN_POD, "pay", NODE_URL, str(PAYMENT_SECONDS), *addresses]
    with tempfile.TemporaryFile("w+") as paid, tempfile.TemporaryFile("w+") as words:  # pipes would fill up
        payer = subprocess.Popen(
            [kubectl.program, "-n", TOOLS, "exec", "-i", TOOLS, "--", *pay],
            env=dict(kubectl.environment),
            stdin=subprocess.PIPE,
            stdout=paid,
            stderr=words,
        )
        with payer:
            try:
                yield payments
                payer.communicate(timeout=END_SECONDS_MAX)  # the end of its stdin is its own
            finally:
                payer.kill()
        if payer.returncode != 0:
            words.seek(0)
            raise KubectlFailed(f"the payer ended with {payer.returncode}: {words.read()}")
        paid.seek(0)
        payments += map(json.loads, paid)


def check_books(wallet: Wallet, payments: Collection[Document], seconds: float = EVENTS_SECONDS_MAX) -> list[Document]:
    """Wait until all payments are confirmed; each must be so once, in order, and nothing else. Returns the events."""
    assert payments
    paid = {(each["txid"], each["to"], each["amount"]) for each in payments}
    events = wallet.wait_confirmed(*(txid for txid, _, _ in paid), seconds=seconds)
    events = [each for each in events if each["to"] in {address for _, address, _ in paid}]

    statuses: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    sequences: dict[str, list[int]] = defaultdict(list)
    for each in events:
        statuses[each["txid"], each["to"], each["amount"]].append(each["status"])
        sequences[each["to"]].append(each["sequence"])
    assert statuses.keys() == paid
    # What is first seen when it is deep enough is confirmed at once.
    right = (["detected", "confirmed"], ["confirmed"])
    assert {deposit: said for deposit, said in statuses.items() if said not in right} == {}
    assert len({each["event_id"] for each in events}) == len(paid)
    assert {address: numbers for address, numbers in sequences.items() if numbers != sorted(set(numbers))} == {}
    return events
