"""Somebody who pays now and then, while the world around a wallet comes and goes."""

import uuid
from dataclasses import dataclass, field

from e2e.kubectl import Document
from e2e.wallets import Wallet


@dataclass
class Customer:
    """Has an address of the wallet, and pays to it, each time another amount."""

    wallet: Wallet
    address: str = field(init=False)
    payments: list[Document] = field(default_factory=list)
    """{txid, to, amount} of each."""

    def __post_init__(self) -> None:
        account = uuid.uuid4().hex
        self.address = self.wallet.create_accounts(account)[account]

    def pays(self) -> None:
        """Once more. The node must answer."""
        amount_wei = len(self.payments) + 1
        [txid] = self.wallet.toolbox.pay([(self.address, amount_wei)])
        self.payments.append({"txid": txid, "to": self.address, "amount": str(amount_wei)})
