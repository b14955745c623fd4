"""One kind cluster for the whole session, with the dev stack, the chart, and the API server's audit log.

The cluster is made anew and removed at the end; one that E2E_CLUSTER names is used as it is, and stays. A machine on
which kind cannot run ends the session with an error: an e2e test that was skipped has shown nothing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from devstack.demo import PUBLIC_SEED
from devstack.errors import DevstackError
from e2e.audit import AUDIT_LOG
from e2e.kubectl import Kubectl
from e2e.nodes import Node
from e2e.operators import NAME as RELEASE
from e2e.operators import Operator
from e2e.release import Release
from e2e.wallets import RESTRICTED, TOOLS, XPUB_SECRET, Toolbox, Wallet
from kindcluster import images, tools
from kindcluster.__main__ import OPERATOR_NAMESPACE, down, up
from kindcluster.cluster import Cluster

HERE = Path(__file__).resolve().parent
LOCAL = HERE.parents[1] / ".local"
CLUSTER = "wallet-manager-test"
TEST_SECONDS_MAX = 900
"""Of a test without its fixtures: the first cluster on a bare machine takes its node image's build."""
MakeKey = Callable[[int], tuple[str, str]]
MakeWallet = Callable[[str], Wallet]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS_MAX, func_only=True))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if terminal is not None:
            terminal.write_line(line)

    kept = os.environ.get("E2E_CLUSTER")
    patch = tmp_path_factory.mktemp("kind") / "patch.yaml"
    patch.write_text(yaml.safe_dump(audit_patch(HERE / "audit-policy.yaml")), encoding="utf-8")
    try:
        if not kept:
            down(LOCAL, say, CLUSTER)  # what an interrupted session left
        yield up(LOCAL, say, kept or CLUSTER, patch)
    except DevstackError as error:
        pytest.exit(f"no cluster, so nothing of Kubernetes can be tested: {error}", returncode=1)
    finally:
        if not kept:
            down(LOCAL, say, CLUSTER)


def audit_patch(policy: Path) -> dict[str, object]:
    """What kind's configuration needs so that the API server keeps an audit log at AUDIT_LOG of the node."""
    mount = {"hostPath": str(policy), "containerPath": "/etc/kubernetes/audit/policy.yaml", "readOnly": True}
    volumes = [
        {"name": "audit-policy", "hostPath": "/etc/kubernetes/audit", "mountPath": "/etc/kubernetes/audit",
         "readOnly": True, "pathType": "DirectoryOrCreate"},
        {"name": "audit-log", "hostPath": "/var/log/kubernetes", "mountPath": "/var/log/kubernetes",
         "readOnly": False, "pathType": "DirectoryOrCreate"},
    ]  # fmt: skip
    arguments = {
        "audit-policy-file": "/etc/kubernetes/audit/policy.yaml",
        "audit-log-path": AUDIT_LOG,
        "permit-port-sharing": "true",  # another one can take over from it, see control_plane.py
    }
    api_server = {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": arguments, "extraVolumes": volumes}}
    return {
        "nodes": [{"role": "control-plane", "extraMounts": [mount]}],
        "kubeadmConfigPatches": [yaml.safe_dump(api_server)],
    }


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    return Kubectl(cluster.kubectl, cluster.environment)


@pytest.fixture(scope="module")
def release(cluster: Cluster, operator: Operator) -> Iterator[Release]:
    """The chart's release, for a module that changes it. Afterwards it is as it was."""
    helm = tools.find("helm", LOCAL)
    assert helm is not None, "the cluster was made with it"
    command: list[str | Path] = [helm, "-n", OPERATOR_NAMESPACE, "get", "values", RELEASE, "-o", "json"]
    done = subprocess.run(command, capture_output=True, check=True, env=cluster.environment)
    release = Release(helm, operator, cluster.environment, json.loads(done.stdout))
    yield release
    release.upgrade()


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> Node:
    """The cluster's one node, from inside."""
    return Node(cluster.node)


@pytest.fixture(scope="session")
def operator(kubectl: Kubectl, node: Node) -> Operator:
    """The operator, as its chart deployed it."""
    return Operator(kubectl, node)


@pytest.fixture(scope="session")
def toolbox(cluster: Cluster, kubectl: Kubectl) -> Toolbox:
    """The pod from which Kafka and the node are spoken to."""
    container = {
        "name": TOOLS,
        "image": images.reference(images.WORKERS, cluster.base),
        "command": ["sleep", "infinity"],
    }
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": TOOLS, "namespace": TOOLS},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }  # fmt: skip
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TOOLS}})
    kubectl("-n", TOOLS, "delete", "pod", TOOLS, "--ignore-not-found", "--wait")
    kubectl.apply(pod)
    kubectl("-n", TOOLS, "wait", f"pod/{TOOLS}", "--for=condition=Ready", "--timeout=90s")
    toolbox = Toolbox(kubectl)
    toolbox.run("sh", "-c", "cat > /tmp/in_pod.py", stdin=(HERE / "in_pod.py").read_text(encoding="utf-8"))
    return toolbox


@pytest.fixture(scope="session")
def make_key(tmp_path_factory: pytest.TempPathFactory) -> MakeKey:
    """The public key of an account, by its number, as walletctl writes it, and its fingerprint."""

    def make(account: int) -> tuple[str, str]:
        secrets = tmp_path_factory.mktemp("secrets") / "secrets"
        program = Path(sys.executable).with_name("walletctl")
        command: list[str | Path] = [program, "keys", "restore", "-", "--account", str(account), "--secrets", secrets]
        done = subprocess.run([*command, "-o", "json"], input=PUBLIC_SEED, text=True, capture_output=True, check=True)
        return (secrets / "accounts" / "xpub").read_text(encoding="utf-8"), json.loads(done.stdout)["fingerprint"]

    return make


@pytest.fixture
def make_wallet(kubectl: Kubectl, toolbox: Toolbox, make_key: MakeKey) -> Iterator[MakeWallet]:
    """A wallet in a new, restricted namespace, with its Secret, and not applied yet. All go when the test ends.

    A test's wallets have different keys: no two wallets may have one on the same chain.
    """
    with _new_wallets(kubectl, toolbox, make_key) as make:
        yield make


@pytest.fixture(scope="module")
def make_lasting_wallet(kubectl: Kubectl, toolbox: Toolbox, make_key: MakeKey) -> Iterator[MakeWallet]:
    """The same for all tests of a module, which then may not ask for `make_wallet`."""
    with _new_wallets(kubectl, toolbox, make_key) as make:
        yield make


@contextmanager
def _new_wallets(kubectl: Kubectl, toolbox: Toolbox, make_key: MakeKey) -> Iterator[MakeWallet]:
    made: list[Wallet] = []

    def make(namespace: str) -> Wallet:
        xpub, fingerprint = make_key(len(made))
        wallet = Wallet(kubectl, toolbox, namespace, fingerprint=fingerprint)
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": RESTRICTED}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": XPUB_SECRET, "namespace": namespace},
             "stringData": {"xpub": xpub}},
        )  # fmt: skip
        made.append(wallet)
        return wallet

    try:
        yield make
    finally:
        if made:
            kubectl("delete", "namespace", *(wallet.namespace for wallet in made), "--wait", "--timeout=120s")
            if topics := toolbox.topics(*(wallet.topic_prefix for wallet in made)):
                toolbox.delete_topics(*topics)
