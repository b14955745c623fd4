"""The resource's definition in a real API server: what it refuses, fills in, and keeps from being changed.

The same tables as in `tests/chart`, where a model of the API server answers in no time.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from definition_cases import IMMUTABLE, REFUSED, SET, changed
from e2e.kubectl import Document, Kubectl, KubectlFailed
from resource_definition import SCHEMA, defaulted, schemas
from resources import FULL, MINIMAL

NAMESPACE = "definition"
WITHOUT_VALIDATION = "--validate=false"
"""Of kubectl, which would look at the definition itself and never ask the API server."""
OWN_MESSAGES = tuple(
    rule["message"] for _, schema in schemas(SCHEMA) for rule in schema.get("x-kubernetes-validations", ())
)


@pytest.fixture(scope="module", autouse=True)
def _namespace(kubectl: Kubectl) -> Iterator[None]:
    """Where nothing runs: who paused a wallet before it was served the first time has nothing made."""
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def placed(document: Mapping[str, Any], name: str | None = None) -> Document:
    """The document as a person would write it, in the namespace."""
    metadata = {"name": name or document["metadata"]["name"], "namespace": NAMESPACE}
    return {**copy.deepcopy({key: document[key] for key in ("apiVersion", "kind", "spec") if key in document}),
            "metadata": metadata}  # fmt: skip


def listed(documents: list[Document]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


def refusal(kubectl: Kubectl, *words: str, stdin: str = "") -> str:
    """What the API server says against it."""
    with pytest.raises(KubectlFailed) as caught:
        kubectl(*words, stdin=stdin)
    return str(caught.value)


def test_the_api_server_refuses_what_the_wallets_own_code_refuses(kubectl: Kubectl) -> None:
    """At `kubectl apply`, and in the definition's words where it has some of its own, which name the remedy."""
    cases = {
        changed(FULL, path, value)["metadata"]["name"] if path == "metadata.name" else f"case-{place}": case
        for place, case in enumerate(REFUSED)
        for path, value, _ in [case]
        if "unknown field" not in case[2]
    }
    documents = [placed(changed(FULL, path, value), name) for name, (path, value, _) in cases.items()]
    said = refusal(kubectl, "create", WITHOUT_VALIDATION, "--dry-run=server", "-f", "-", stdin=listed(documents))
    refused = {found[1]: line for line in said.splitlines() if (found := re.search(r'"([\w-]+)" is invalid: ', line))}
    assert refused.keys() == cases.keys()
    for name, (path, _, words) in cases.items():
        if any(words in message for message in OWN_MESSAGES):
            assert words in refused[name], path
    unknown = placed(changed(FULL, "spec.chian", {}))
    server_side = f"/apis/wallet-manager.dev/v1alpha1/namespaces/{NAMESPACE}/walletmanagers"
    query = "?dryRun=All&fieldValidation=Strict"
    said = refusal(kubectl, "create", "--raw", server_side + query, "-f", "-", stdin=json.dumps(unknown))
    assert "spec.chian" in said


def test_the_api_server_takes_good_documents_and_fills_in_the_defaults_of_the_code(kubectl: Kubectl) -> None:
    """What `kubectl get -o yaml` shows is what the wallet goes by, and what the model of the unit tests says."""
    for document in (FULL, MINIMAL):
        answer = kubectl("create", "--dry-run=server", "-f", "-", "-o", "json", stdin=json.dumps(placed(document)))
        assert json.loads(answer)["spec"] == defaulted(document)["spec"]


def test_what_never_changes_is_kept_by_the_api_server(kubectl: Kubectl) -> None:
    """Whether it is changed, or removed to be added again as something else; all else may change."""
    kubectl.apply(placed(SET))
    stored = kubectl.get(NAMESPACE, "wm/mainnet")
    assert stored["spec"]["paused"], "the operator makes nothing of it"
    for path, value, words in IMMUTABLE:
        changes = {**stored, "spec": changed(placed(SET), path, value)["spec"]}
        said = refusal(kubectl, "replace", "--dry-run=server", "-f", "-", stdin=json.dumps(changes))
        assert words in said, path
    without_prefix = {**stored, "spec": changed(placed(SET), "spec.kafka", {"bootstrapServers": "k1:9092"})["spec"]}
    said = refusal(kubectl, "replace", "--dry-run=server", "-f", "-", stdin=json.dumps(without_prefix))
    assert "spec.kafka.topicPrefix" in said, "not with its parent either"
    assert "spec.kafka.partitions" in said
    allowed = changed(changed(placed(SET), "spec.sync.shards", 5), "spec.chain.rpc.0.url", "http://other:8545")
    kubectl("replace", "--dry-run=server", "-f", "-", stdin=json.dumps({**stored, "spec": allowed["spec"]}))


def test_a_wallet_cannot_be_scaled_to_nothing(kubectl: Kubectl) -> None:
    """Nobody would follow the chain, and nothing would say so; `kubectl scale` to anything else is taken."""
    kubectl.apply(placed(SET, "scaled"))
    said = refusal(kubectl, "-n", NAMESPACE, "scale", "wm/scaled", "--replicas=0")
    assert "spec.sync.shards" in said
    assert "greater than or equal to 1" in said
    kubectl("-n", NAMESPACE, "scale", "wm/scaled", "--replicas=4")
    assert kubectl.get(NAMESPACE, "wm/scaled")["spec"]["sync"]["shards"] == 4
