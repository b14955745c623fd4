"""Wallets on the tests' cluster, as a platform engineer and a backend team see them.

Each has a namespace and a topic prefix of its own, keys of the seed that everybody knows, and short waits.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from e2e.kubectl import Document, Kubectl, KubectlFailed, eventually
from wallet_operator.kinds import ROLE_LABEL, WALLET_LABEL
from wallet_operator.network import STATUS_PORT

READY_SECONDS_MAX = 120.0
EVENTS_SECONDS_MAX = 90.0
TOOLS = "tools"
"""The namespace, and the pod in it, from which Kafka and the node are spoken to."""
IN_POD = ("python", "/tmp/in_pod.py")  # noqa: S108 - in the pod
BROKERS = "kafka.devstack:9092"
NODE_URL = "http://ganache.devstack:8545"
FINGERPRINT = "3bf9540752f9058347626413dab111dae5854ae1"
XPUB_SECRET = "accounts"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True)
class Toolbox:
    """A pod of the workers' image, to speak from."""

    kubectl: Kubectl

    def run(self, *words: str, stdin: str = "") -> str:
        """What a command in the pod writes on stdout. Raises KubectlFailed."""
        return self.kubectl("-n", TOOLS, "exec", "-i", TOOLS, "--", *words, stdin=stdin)

    def rpc(self, *calls: Sequence[Any], url: str = NODE_URL) -> list[Any]:
        """What the node answers to each call, (method, parameters…)."""
        lines = "".join(f"{json.dumps(list(call))}\n" for call in calls)
        return [json.loads(line) for line in self.run(*IN_POD, "rpc", url, stdin=lines).splitlines()]

    def read(self, topic: str) -> list[Document]:
        """Every committed record of a topic, in order within each partition."""
        lines = self.run(*IN_POD, "read", BROKERS, topic).splitlines()
        return [json.loads(line) for line in lines]

    def send(self, topic: str, values: Sequence[Mapping[str, Any] | str], key: str | None = None) -> None:
        """Records, in order."""
        lines = "".join(f"{json.dumps({'key': key, 'value': value})}\n" for value in values)
        self.run(*IN_POD, "send", BROKERS, topic, stdin=lines)

    def topics(self, *prefixes: str) -> list[str]:
        """The topics whose names begin so."""
        return [name for name in self.run(*IN_POD, "topics", BROKERS).split() if name.startswith(prefixes)]

    def delete_topics(self, *names: str) -> None:
        """Delete topics, with what was said there."""
        self.run(*IN_POD, "delete", BROKERS, *names)

    def pay(self, payments: Sequence[tuple[str, int]]) -> list[str]:
        """Transactions that pay (address, wei), in order. Returns their hashes."""
        [accounts] = self.rpc(("eth_accounts",))
        calls = [
            ("eth_sendTransaction", {"from": accounts[0], "to": address, "value": hex(amount_wei)})
            for address, amount_wei in payments
        ]
        return self.rpc(*calls)


@dataclass(frozen=True)
class Wallet:
    """One resource and what comes of it."""

    kubectl: Kubectl
    toolbox: Toolbox
    namespace: str
    name: str = "wallet"
    fingerprint: str = FINGERPRINT
    """Of its key."""

    @property
    def topic_prefix(self) -> str:
        return f"{self.namespace}."

    def document(self, changes: Mapping[str, Any] | None = None) -> Document:
        """The resource. `changes`: what is merged into its spec; None takes a field away."""
        spec: Document = {
            "chain": {
                "id": 1337,
                "rpc": [{"url": NODE_URL, "wsUrl": NODE_URL.replace("http", "ws")}],
                "confirmation": {"depth": 3},
                "settleDepth": 8,
                "startBlock": "latest",
                "staleAfterSeconds": 30,
            },
            "kafka": {
                "bootstrapServers": BROKERS,
                "topicPrefix": self.topic_prefix,
                "partitions": 2,
                "replicationFactor": 1,
            },
            "redis": {"url": "redis://redis.devstack:6379/0"},
            "accounts": {
                "replicas": 1,
                "fingerprint": self.fingerprint,
                "xpubFrom": {"secretKeyRef": {"name": XPUB_SECRET, "key": "xpub"}},
            },
            "assets": [{"type": "native", "symbol": "ETH"}],
            "sync": {"shards": 1},
            "tuning": {"lockTtlSeconds": 6, "transactionTimeoutSeconds": 5, "pollSeconds": 0.5},
        }
        return {
            "apiVersion": "wallet-manager.dev/v1alpha1",
            "kind": "WalletManager",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": merged(spec, changes or {}),
        }

    def apply(self, changes: Mapping[str, Any] | None = None) -> None:
        """Create it, or make it as `document` says."""
        self.kubectl.apply(self.document(changes))

    def patch(self, spec: Mapping[str, Any]) -> None:
        """A merge patch of its spec."""
        self._kubectl("patch", f"wm/{self.name}", "--type=merge", "-p", json.dumps({"spec": spec}))

    def read(self) -> Document:
        """The resource as it is."""
        return self.kubectl.get(self.namespace, f"wm/{self.name}")

    def condition(self, kind: str = "Ready") -> Document:
        """A condition as it is; empty where the operator has not said it yet."""
        conditions = (self.read().get("status") or {}).get("conditions") or ()
        return next((each for each in conditions if each["type"] == kind), {})

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> Document:
        """Wait until it is Ready with the resource as it is now. Returns the resource."""
        return eventually(self.read, is_ready, seconds, f"{self.namespace}/{self.name} is Ready")

    def wait_for(self, status: str, reason: str, seconds: float, kind: str = "Ready") -> Document:
        """Wait until a condition has this status and reason. Returns it."""
        return eventually(
            lambda: self.condition(kind),
            lambda each: (each.get("status"), each.get("reason")) == (status, reason),
            seconds,
            f"{self.namespace}/{self.name} is {kind}={status}, {reason}",
        )

    def pods(self, role: str) -> list[Document]:
        """The pods of a role that are not on their way out."""
        selector = f"{WALLET_LABEL}={self.name},{ROLE_LABEL}={role}"
        found = self.kubectl.list(self.namespace, "pods", selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def worker_status(self, pod: Document) -> Document:
        """What a worker says of itself. Raises KubectlFailed where it does not answer."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}:{STATUS_PORT}/proxy/status"
        found: Document = json.loads(self._kubectl("get", "--raw", path))
        return found

    def leaders(self) -> list[Document]:
        """The pods of sync that say that they lead; those that do not answer are left out."""

        def leads(pod: Document) -> bool:
            try:
                return bool(self.worker_status(pod).get("leader"))
            except KubectlFailed:
                return False

        return [pod for pod in self.pods("sync") if leads(pod)]

    def wait_leader(self, but: str = "", seconds: float = READY_SECONDS_MAX) -> Document:
        """Wait until one pod of sync leads, and not the one of the uid `but`. Returns it."""
        [leader] = eventually(
            self.leaders,
            lambda found: len(found) == 1 and found[0]["metadata"]["uid"] != but,
            seconds,
            f"one pod of {self.namespace}/{self.name} leads",
        )
        return leader

    def create_accounts(self, *ids: str) -> dict[str, str]:
        """Order an account for each id; wait for the addresses. By id."""
        self.toolbox.send(f"{self.topic_prefix}command", [{"type": "create_account", "id": each} for each in ids])
        return self.wait_accounts(*ids)

    def wait_accounts(self, *ids: str, seconds: float = EVENTS_SECONDS_MAX) -> dict[str, str]:
        """The addresses of accounts that were ordered, by id."""
        found = eventually(self.accounts, lambda found: found.keys() >= set(ids), seconds, f"accounts {ids}")
        return {each: found[each] for each in ids}

    def accounts(self) -> dict[str, str]:
        """Every address there is, by the id of its command."""
        records = self.toolbox.read(f"{self.topic_prefix}address.created")
        return {each["value"]["id"]: each["value"]["address"] for each in records if each["value"]}

    def deposits(self) -> list[Document]:
        """Every deposit event there is."""
        return [each["value"] for each in self.toolbox.read(f"{self.topic_prefix}transaction")]

    def wait_confirmed(self, *hashes: str, seconds: float = EVENTS_SECONDS_MAX) -> list[Document]:
        """Wait until each of these transactions is confirmed. Returns every deposit event."""

        def are_confirmed(events: list[Document]) -> bool:
            return {each["txid"] for each in events if each["status"] == "confirmed"} >= set(hashes)

        return eventually(self.deposits, are_confirmed, seconds, f"{len(hashes)} transactions are confirmed")

    def _kubectl(self, *words: str) -> str:
        return self.kubectl("-n", self.namespace, *words)


def is_ready(document: Document) -> bool:
    """Whether a resource is Ready as it is now, and not as it was."""
    status = document.get("status") or {}
    return status.get("observedGeneration") == document["metadata"]["generation"] and any(
        each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ()
    )


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Document:
    """A merge patch (RFC 7386)."""
    result = copy.deepcopy(dict(base))
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result
