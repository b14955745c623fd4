"""The whole story on a cluster: `kubectl apply`, an account on Kafka, a deposit on the chain, the deposit on Kafka.

It does what a platform engineer would type, each command printed before it runs. Kafka hands out an address that only
pods can reach, so everything that a backend team would do is done by walletctl in a pod of the workers' image.

The wallet's key belongs to a seed that everybody knows, as in `make demo`: for play only.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from devstack.__main__ import REPOSITORY, say
from devstack.demo import DEPOSIT_WEI, PUBLIC_SEED, chapter, table
from devstack.errors import DevstackError
from kindcluster import images
from kindcluster.__main__ import up
from kindcluster.cluster import Cluster

EXAMPLE = REPOSITORY / "examples" / "walletmanager-kind.yaml"
NAMESPACE, WALLET, TOOLBOX = "wallets", "demo", "toolbox"
READY_SECONDS_MAX = 180
EVENT_SECONDS_MAX = 120
WORD_LENGTH_MAX = 100
"""Characters of an argument that is printed; a longer one is a program or a document."""
_PAY = """
import json, sys, urllib.request
def rpc(method, *params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request("http://ganache.devstack:8545", body, {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=30))["result"]
rich = rpc("eth_accounts")[0]
print(rpc("eth_sendTransaction", {"from": rich, "to": sys.argv[1], "value": sys.argv[2]}))
"""


class Story:
    """Tells it, on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._kubectl_path = cluster.kubectl
        self._environment = cluster.environment
        self._workers_image = images.reference(images.WORKERS, cluster.base)

    def tell(self, secrets: Path) -> None:
        """Every step, in order. Raises DevstackError for the first that fails."""
        chapter("A namespace for wallets, and the account's public key in a Secret")
        self._apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})  # fmt: skip
        xpub = secrets / "accounts" / "xpub"
        if not xpub.exists():
            walletctl = Path(sys.executable).with_name("walletctl")
            self._run([walletctl, "keys", "restore", "-", "--secrets", secrets], stdin=PUBLIC_SEED)
        self._apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "accounts", "namespace": NAMESPACE},
                     "stringData": {"xpub": xpub.read_text(encoding="utf-8")}})  # fmt: skip

        chapter("The wallet: one resource")
        say(self._kubectl("apply", "-f", str(EXAMPLE)))
        ready = ("wait", f"wm/{WALLET}", "--for=condition=Ready", f"--timeout={READY_SECONDS_MAX}s")
        say(self._kubectl("-n", NAMESPACE, *ready))
        say(self._kubectl("-n", NAMESPACE, "get", "wm,pods"))

        chapter("An address for a customer: a command on Kafka, its answer on address.created")
        self._apply(self._toolbox())
        self._kubectl("-n", NAMESPACE, "wait", f"pod/{TOOLBOX}", "--for=condition=Ready", "--timeout=120s")
        self._in_toolbox("sh", "-c", "cat > /tmp/walletmanager.yaml", stdin=EXAMPLE.read_text(encoding="utf-8"))
        created = self._walletctl("account", "create", "--meta", "customer=42", "--wait", "-o", "json")
        say(created)
        account = json.loads(created)

        chapter("The customer pays 1.5 ETH: detected at once, confirmed three blocks deep")
        say(f"transaction {self._in_toolbox('python', '-c', _PAY, account['address'], hex(DEPOSIT_WEI))}")
        watching = ["--from-beginning", "--address", account["address"], "--count", "2", "-o", "json"]
        seen = self._walletctl("watch", *watching, limit=EVENT_SECONDS_MAX)
        say(seen)

        chapter("What happened")
        table(account, [json.loads(line) for line in seen.splitlines()])
        say(self._kubectl("-n", NAMESPACE, "get", "wm"))
        say(
            f"""
Everything goes on running. Go on by hand, after
  export KUBECONFIG={self._environment["KUBECONFIG"]} PATH={self._kubectl_path.parent}:$PATH
  kubectl -n {NAMESPACE} get wm -o wide              how far the wallet is, and what is wrong
  kubectl -n {NAMESPACE} describe wm {WALLET}
  kubectl -n {NAMESPACE} scale wm/{WALLET} --replicas=3  more workers that read the chain
  kubectl -n {NAMESPACE} exec {TOOLBOX} -- walletctl watch -f /tmp/walletmanager.yaml --from-beginning
  make cluster-down                               remove all of it"""
        )

    def _toolbox(self) -> dict[str, object]:
        locked = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        container = {
            "name": TOOLBOX,
            "image": self._workers_image,
            "command": ["sleep", "infinity"],
            "securityContext": {**locked, "runAsNonRoot": True},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
        }
        spec = {
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": TOOLBOX, "namespace": NAMESPACE}, "spec": spec}

    def _walletctl(self, *arguments: str, limit: int = 60) -> str:
        words = ["timeout", str(limit), "walletctl", *arguments, "-f", "/tmp/walletmanager.yaml"]  # noqa: S108 - in the pod
        return self._in_toolbox(*words)

    def _in_toolbox(self, *words: str, stdin: str | None = None) -> str:
        return self._kubectl("-n", NAMESPACE, "exec", "-i", TOOLBOX, "--", *words, stdin=stdin)

    def _apply(self, manifest: dict[str, object]) -> None:
        say(self._kubectl("apply", "-f", "-", stdin=json.dumps(manifest)))

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._run([self._kubectl_path, *arguments], stdin=stdin)

    def _run(self, command: Sequence[str | Path], stdin: str | None = None) -> str:
        words = [Path(command[0]).name, *map(str, command[1:])]
        say(f"$ {shlex.join(word if len(word) <= WORD_LENGTH_MAX else '…' for word in words)}")
        done = subprocess.run(
            command,
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
            cwd=REPOSITORY,
        )
        if done.returncode != 0:
            raise DevstackError(
                f"{' '.join(words[:4])} … failed: {done.stderr.strip()}: see `kubectl describe`, or again"
            )
        return done.stdout.strip()


def main() -> int:
    """Make the cluster where it is missing, and tell the story. Returns the exit code."""
    local = REPOSITORY / ".local"
    try:
        chapter("A cluster with Redis, Kafka, an Ethereum development chain, and the operator")
        made = up(local, say)
        Story(made).tell(local / "demo-kind" / "secrets")  # apart from those that the user made
    except DevstackError as error:
        print(f"demo-kind: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
