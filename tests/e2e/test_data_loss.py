"""What was to be kept for ever is gone: the wallet halts, says what a person can do, and begins nothing anew."""

import json

from e2e.conftest import MakeWallet
from e2e.customers import Customer
from e2e.deposits import check_books
from e2e.kubectl import Document, Kubectl, eventually
from e2e.nodes import Node
from e2e.services import Service, data_lost
from e2e.wallets import READY_SECONDS_MAX, Wallet
from wallet_core.messages import Topic
from wallet_core.settings import Role
from wallet_operator.kinds import ROLE_LABEL
from wallet_workers.stopping import HALT_RECHECK_SECONDS

HALTED_SECONDS_MAX = 120.0
SETTLED_SECONDS_MAX = 60.0
BOOTSTRAP_SECONDS_MAX = 120.0
"""Of a run, or of the pause before the next one after a few."""


def test_a_lost_kafka_halts_the_wallet_until_it_is_restored(
    make_wallet: MakeWallet, kubectl: Kubectl, node: Node
) -> None:
    """Nothing is made anew on an empty Kafka, not even by an edit of the resource, for which bootstrap runs again.

    With the log restored the wallet goes on by itself. All is told once.
    """
    wallet = make_wallet("kafka-lost")
    wallet.apply()
    wallet.wait_ready()
    customer = Customer(wallet)
    customer.pays()
    said = check_books(wallet, customer.payments)
    with data_lost(Service(kubectl, "kafka"), node):
        wallet.wait_for("False", "Halted", HALTED_SECONDS_MAX)
        assert wallet.condition("Stalled")["status"] == "True"
        assert wallet.toolbox.topics(wallet.topic_prefix) == []
        wallet.patch({"chain": {"settleDepth": 9}})
        wait_bootstrap_refused(wallet, kubectl)
        assert wallet.toolbox.read(f"{wallet.topic_prefix}{Topic.STATE_SYNC}") == []
        customer.pays()
    customer.pays()
    wallet.wait_ready(READY_SECONDS_MAX + HALT_RECHECK_SECONDS + BOOTSTRAP_SECONDS_MAX)
    assert check_books(wallet, customer.payments)[: len(said)] == said


def test_a_lost_checkpoint_is_made_anew_by_a_rewind_only(make_wallet: MakeWallet, kubectl: Kubectl) -> None:
    """Without `state.sync` the wallet halts, and names `walletctl sync rewind`; after that, and another run of
    bootstrap, it goes on, and says nothing twice.
    """
    wallet = make_wallet("checkpoint-lost")
    wallet.apply()
    wallet.wait_ready()
    customer = Customer(wallet)
    customer.pays()
    [*_, confirmed] = check_books(wallet, customer.payments)
    block: int = confirmed["block_number"]
    wait_settled(wallet, block)
    wallet.toolbox.delete_topics(f"{wallet.topic_prefix}{Topic.STATE_SYNC}")
    assert "walletctl sync rewind" in wait_checkpoint_lost(wallet)
    customer.pays()
    order_rewind(wallet, to=block - 1)
    kubectl("-n", wallet.namespace, "delete", "job", "-l", f"{ROLE_LABEL}={Role.BOOTSTRAP}")
    wallet.wait_ready(READY_SECONDS_MAX + HALT_RECHECK_SECONDS)
    check_books(wallet, customer.payments)


def test_a_lost_chain_is_not_followed(make_wallet: MakeWallet, kubectl: Kubectl, node: Node) -> None:
    """Another chain with the same id at the same place is told by its genesis block: nothing of it is published.

    With the database restored the wallet goes on by itself.
    """
    wallet = make_wallet("chain-lost")
    wallet.apply()
    wallet.wait_ready()
    customer = Customer(wallet)
    customer.pays()
    check_books(wallet, customer.payments)
    with data_lost(Service(kubectl, "ganache"), node):
        condition = wallet.wait_for("False", "WrongChain", HALTED_SECONDS_MAX)
        assert "block 0" in condition["message"]
        assert "check spec.chain.id and spec.chain.rpc" in condition["message"]
        assert wallet.condition("Stalled")["status"] == "True"
        wallet.toolbox.pay([(customer.address, 10**18)])
    customer.pays()
    wallet.wait_ready()
    check_books(wallet, customer.payments)


def wait_checkpoint_lost(wallet: Wallet) -> str:
    """Wait until it has halted for that. Returns the message."""

    def is_lost(condition: Document) -> bool:
        return condition.get("reason") == "Halted" and "CheckpointLost" in condition["message"]

    message: str = eventually(wallet.condition, is_lost, HALTED_SECONDS_MAX, "it has halted: CheckpointLost")["message"]
    return message


def wait_bootstrap_refused(wallet: Wallet, kubectl: Kubectl) -> None:
    """Wait until a run of bootstrap has ended with that."""

    def is_refused(pods: list[Document]) -> bool:
        ends = [
            each["state"].get("terminated") or {} for pod in pods for each in pod["status"].get("containerStatuses", ())
        ]
        return any("is this its Kafka?" in end.get("message", "") for end in ends)

    selector = f"{ROLE_LABEL}={Role.BOOTSTRAP}"
    eventually(
        lambda: kubectl.list(wallet.namespace, "pods", selector), is_refused, BOOTSTRAP_SECONDS_MAX, "bootstrap refuses"
    )


def wait_settled(wallet: Wallet, block: int) -> None:
    """Wait until the block is settled by the node's tip."""
    depth = wallet.document()["spec"]["chain"]["settleDepth"]

    def tip() -> int:
        return int(wallet.toolbox.rpc(("eth_blockNumber",))[0], 16)

    eventually(tip, lambda number: number > block + depth, SETTLED_SECONDS_MAX, f"block {block} is settled")


def order_rewind(wallet: Wallet, to: int) -> None:
    """By walletctl, in a pod of the workers' image."""
    script = f'cat > "$0" && walletctl sync rewind -f "$0" --to {to} --yes'
    file = f"/tmp/{wallet.namespace}.yaml"  # noqa: S108 - in the pod
    wallet.toolbox.run("sh", "-c", script, file, stdin=json.dumps(wallet.document()))
