"""The wallet's whole job on a cluster."""

from e2e.conftest import MakeWallet


def test_an_applied_resource_becomes_a_wallet_that_reports_deposits(make_wallet: MakeWallet) -> None:
    """From `kubectl apply` in a restricted namespace to a confirmed deposit, each event once."""
    wallet = make_wallet("story")
    wallet.apply()
    wallet.wait_ready()
    address = wallet.create_accounts("customer-42")["customer-42"]
    [paid] = wallet.toolbox.pay([(address, 10**18)])
    events = wallet.wait_confirmed(paid)
    assert [(each["to"], each["amount"], each["status"]) for each in events] == [
        (address, str(10**18), "detected"),
        (address, str(10**18), "confirmed"),
    ]
