"""The operator as its chart deployed it: its pods, which of them leads, and what it counts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from e2e.kubectl import Document, Kubectl, eventually
from e2e.nodes import Node
from kindcluster.__main__ import OPERATOR_NAMESPACE
from wallet_operator.leader import RENEW_DEADLINE_SECONDS, RETRY_SECONDS, TTL_SECONDS

NAME = "wallet-manager"
PORT = 8080
SELECTOR = f"app.kubernetes.io/component=operator,app.kubernetes.io/instance={NAME}"
START_SECONDS_MAX = 60.0
"""Of a new pod, until it is ready."""
TAKE_OVER_SECONDS_MAX = TTL_SECONDS + RETRY_SECONDS + RENEW_DEADLINE_SECONDS
"""From a leader's last sign of life to its successor's first work; with an allowance for a busy machine."""


@dataclass(frozen=True)
class Operator:
    """See the module. What its pods serve is read inside the node, so that it can be read while the API is away."""

    kubectl: Kubectl
    node: Node

    def pods(self) -> list[Document]:
        """Those that are not on their way out."""
        found = self.kubectl.list(OPERATOR_NAMESPACE, "pods", SELECTOR)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def holder(self) -> str:
        """The name of the pod that holds the Lease; empty where nobody does."""
        lease = self.kubectl.get(OPERATOR_NAMESPACE, f"lease/{NAME}")
        name: str = lease["spec"].get("holderIdentity") or ""
        return name

    def leader(self) -> Document:
        """The one pod that says that it leads. Waits for it."""
        [pod] = eventually(
            lambda: [pod for pod in self.pods() if self.leads(pod)],
            lambda found: len(found) == 1 and name_of(found[0]) == self.holder(),
            TAKE_OVER_SECONDS_MAX + START_SECONDS_MAX,
            "one pod of the operator leads",
        )
        return pod

    def leads(self, pod: Document) -> bool:
        """Whether it says so."""
        return counted(self.metrics(pod), "wallet_operator_leading") == 1

    def ask(self, pod: Document, path: str) -> tuple[int, str]:
        """What a pod serves: status and body; status 0 where it does not answer."""
        return self.node.fetch(f"http://{pod['status'].get('podIP')}:{PORT}{path}")

    def metrics(self, pod: Document) -> str:
        """Its metrics; empty where it does not answer."""
        return self.ask(pod, "/metrics")[1]

    def pid(self, pod: Document) -> int:
        """Its process, by its number in the node."""
        [pid] = self.node.pids("python -m wallet_operator", f"WALLET_OPERATOR_POD_NAME={name_of(pod)}")
        return pid

    def log(self, pod: Document, *words: str) -> list[Document]:
        """The lines that its container has written."""
        lines = self.kubectl("-n", OPERATOR_NAMESPACE, "logs", name_of(pod), *words).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @contextmanager
    def frozen(self, pod: Document) -> Iterator[None]:
        """The pod's process gets no time meanwhile, and does not know it."""
        with self.node.frozen(self.pid(pod)):
            yield


def name_of(document: Document) -> str:
    """An object's."""
    name: str = document["metadata"]["name"]
    return name


def restarts(pod: Document) -> int:
    """How often the pod's container was started again."""
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))


def counted(metrics: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels; 0 where there are none."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
