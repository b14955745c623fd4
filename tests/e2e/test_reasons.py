"""What a person must mend: the wallet says what and how, harms nobody meanwhile, and is good again after that."""

from e2e.conftest import MakeWallet
from e2e.customers import Customer
from e2e.deposits import check_books
from e2e.kubectl import Document, Kubectl, eventually
from e2e.wallets import READY_SECONDS_MAX, XPUB_SECRET
from kindcluster import images
from kindcluster.cluster import Cluster

SECRET_SECONDS_MAX = 120.0
"""Until the kubelet has brought a Secret that was made late into a pod that waits for it."""
TOLD_SECONDS_MAX = 60.0
RETRIES_SECONDS_MAX = 120.0
"""Bootstrap's pause before another run, after the few failures of a test."""
OTHER_NODE = "node"


def test_a_missing_secret_and_a_node_of_another_chain(
    make_wallet: MakeWallet, kubectl: Kubectl, cluster: Cluster
) -> None:
    """Each is named with its remedy; once it is mended, at the place where it is looked for, the wallet is Ready."""
    keyless, astray = make_wallet("keyless"), make_wallet("astray")
    secret = kubectl.get(keyless.namespace, f"secret/{XPUB_SECRET}")
    kubectl("-n", keyless.namespace, "delete", f"secret/{XPUB_SECRET}")
    keyless.apply()
    serve_chain(kubectl, cluster, astray.namespace, chain_id=1337)
    astray.apply({"chain": {"id": 1, "rpc": [{"url": f"http://{OTHER_NODE}:8545"}]}})

    missing = keyless.wait_for("False", "SecretMissing", TOLD_SECONDS_MAX)["message"]
    assert f"{XPUB_SECRET}/xpub" in missing
    assert "create the Secret with this key in the wallet's namespace" in missing
    kubectl.apply(bare_secret(secret))
    wrong = astray.wait_for("False", "WrongChain", TOLD_SECONDS_MAX)["message"]
    assert "1337" in wrong
    assert "check spec.chain.id and spec.chain.rpc" in wrong
    assert astray.condition("Stalled")["status"] == "True"
    assert keyless.condition("Stalled")["status"] == "False"
    serve_chain(kubectl, cluster, astray.namespace, chain_id=1)

    astray.wait_ready()
    assert astray.condition("Stalled")["status"] == "False"
    keyless.wait_ready(SECRET_SECONDS_MAX)


def test_what_belongs_to_another_wallet_is_left_alone(make_wallet: MakeWallet, kubectl: Kubectl) -> None:
    """Of wallets with one key, and of wallets with the same topics, the older works on undisturbed.

    The others say what to do, and are Ready by themselves once the older and its topics are gone.
    """
    older, same_key, same_topics = (make_wallet(name) for name in ("older", "same-key", "same-topics"))
    older.apply()
    older.wait_ready()
    customer = Customer(older)
    ready_since = older.condition()["lastTransitionTime"]

    xpub = kubectl.get(older.namespace, f"secret/{XPUB_SECRET}")
    kubectl.apply(bare_secret(xpub, same_key.namespace))
    same_key.apply({"accounts": {"fingerprint": older.fingerprint}})
    same_topics.apply({"kafka": {"topicPrefix": older.topic_prefix}})
    refusal = same_key.wait_for("False", "InvalidSpec", TOLD_SECONDS_MAX)["message"]
    assert f"the older wallet {older.namespace}/{older.name} has the same key" in refusal
    assert "delete one of them" in refusal
    failure = same_topics.wait_for("False", "BootstrapFailing", TOLD_SECONDS_MAX)["message"]
    assert f"TopicsOfAnotherWallet: the topics belong to a wallet of namespace {older.namespace}" in failure
    assert "give this wallet a topicPrefix of its own" in failure
    customer.pays()
    check_books(older, customer.payments)
    assert older.condition()["status"] == "True"
    assert older.condition()["lastTransitionTime"] == ready_since

    kubectl("-n", older.namespace, "delete", f"wm/{older.name}", "--wait")
    eventually(lambda: kubectl.list(older.namespace, "pods"), lambda pods: not pods, READY_SECONDS_MAX, "it is gone")
    older.toolbox.delete_topics(*older.toolbox.topics(older.topic_prefix))
    same_key.wait_ready()
    same_topics.wait_ready(READY_SECONDS_MAX + RETRIES_SECONDS_MAX)


def bare_secret(secret: Document, namespace: str | None = None) -> Document:
    """The same Secret to be made anew, here or elsewhere."""
    metadata = {"name": secret["metadata"]["name"], "namespace": namespace or secret["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": secret["data"]}


def serve_chain(kubectl: Kubectl, cluster: Cluster, namespace: str, chain_id: int) -> None:
    """Have a node of that chain in the namespace, at always the same address, in place of the one before."""
    container = {
        "name": OTHER_NODE,
        "image": images.reference(images.DEV_GANACHE, cluster.base),
        "command": [
            "node", "/opt/ganache/node_modules/ganache/dist/node/cli.js", "--server.host", "0.0.0.0",  # noqa: S104 - in a pod
            "--chain.chainId", str(chain_id), "--wallet.deterministic", "--miner.blockTime", "1",
        ],
        "readinessProbe": {"tcpSocket": {"port": 8545}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": OTHER_NODE, "namespace": namespace, "labels": {"app": OTHER_NODE}},
        "spec": {
            "containers": [container], "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }  # fmt: skip
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": OTHER_NODE, "namespace": namespace},
        "spec": {"selector": {"app": OTHER_NODE}, "ports": [{"port": 8545}]},
    }  # fmt: skip
    kubectl("-n", namespace, "delete", "pod", OTHER_NODE, "--ignore-not-found", "--wait")
    kubectl.apply(service, pod)
    kubectl("-n", namespace, "wait", f"pod/{OTHER_NODE}", "--for=condition=Ready", "--timeout=90s")
