"""The chart: what it makes of its values, and which values it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import readme
from rendered_chart import Document, Helm, Render, only
from resource_definition import CHART, DEFINITION
from wallet_core.settings import Role
from wallet_operator.config import Config, read_config
from wallet_operator.manifests import role_labels
from wallet_operator.network import OPERATOR_LABELS
from wallet_operator.rights import Right, needed_rights

EVERYTHING = (
    "networkPolicy.enabled=true", "podMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true",
    "watchNamespaces={wallets,more-wallets}", "replicas=2", "imagePullSecrets[0].name=registry",
    "podAnnotations.team=wallets", "nodeSelector.disk=ssd", "priorityClassName=high",
    "tolerations[0].operator=Exists", "extraEnv[0].name=HTTPS_PROXY", "extraEnv[0].value=http://proxy:3128",
    "allowedRepositories={registry.example/wallets/}", "existingSecret=proxy", "commonLabels.team=wallets",
    "podLabels.team=wallets", "serviceAccount.annotations.role=wallets",
)  # fmt: skip
KUBERNETES_VERSION_MIN = "1.29"
OWN_KINDS = {"CustomResourceDefinition", "PodMonitor", "PrometheusRule"}
"""Whose schemas Kubernetes does not ship."""


def environment(documents: list[Document]) -> dict[str, str]:
    """What the operator finds, with the pod's own name and namespace as the API server fills them in."""
    (container,) = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    filled = {"metadata.name": "wm-0", "metadata.namespace": "operators"}
    return {
        each["name"]: each["value"] if "value" in each else filled[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container["env"]
    }


def granted(documents: list[Document]) -> set[Right]:
    """The rights in the roles that the service account is bound to."""
    found: set[Right] = set()
    roles = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in documents
    }
    for binding in documents:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        (subject,) = binding["subjects"]
        account = only(documents, "ServiceAccount")["metadata"]
        assert subject == {"kind": "ServiceAccount", "name": account["name"], "namespace": "operators"}
        where = binding["metadata"].get("namespace", "")
        role = roles[binding["roleRef"]["kind"], where, binding["roleRef"]["name"]]
        found |= {
            Right(group, resource, verb, where, name)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [""])
        }
    return found


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    """A chart that does not pass lint is refused by many pipelines."""
    done = helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["defaults", "everything"])
def test_every_object_is_what_kubernetes_takes(render: Render, values: tuple[str, ...]) -> None:
    """A field in the wrong place would be dropped without a word, or refused half-way through an installation."""
    for document in render(*values):
        if document["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(document, KUBERNETES_VERSION_MIN, strict=True)


@pytest.mark.parametrize("namespaces", [(), ("wallets", "more-wallets")], ids=["cluster-wide", "namespaces"])
def test_the_operator_has_the_rights_that_it_needs_and_no_other(render: Render, namespaces: tuple[str, ...]) -> None:
    """It can do its work, and whoever breaks into it can do no more than that: in other namespaces nothing."""
    documents = render(*([f"watchNamespaces={{{','.join(namespaces)}}}"] if namespaces else []))
    config = read_config(environment(documents))
    assert granted(documents) == set(needed_rights(config))


def test_nothing_is_said_of_secrets_and_nothing_is_added_to_other_roles(render: Render) -> None:
    """Who may read Secrets of a namespace is decided by its owner alone."""
    for document in render(*EVERYTHING):
        labels = document["metadata"].get("labels", {})
        assert not any(name.startswith("rbac.authorization.k8s.io/aggregate-to-") for name in labels)
        for rule in document.get("rules", ()):
            forbidden = {"secrets", "customresourcedefinitions", "namespaces", "*"}
            assert not forbidden & {*rule["resources"], *rule["verbs"], *rule["apiGroups"]}


def test_the_operator_reads_what_the_values_say(render: Render) -> None:
    """A value that no variable carries would do nothing, and nobody would know."""
    values = ("networkPolicy.enabled=true", "networkPolicy.workersEgressPorts={9093}", "watchNamespaces={a,b}",
              "allowedRepositories={registry.example/}", "networkPolicy.monitoringNamespaces={m1,m2}",
              "workers.image.tag=v7", "upgrade.readyTimeoutSeconds=90", "networkPolicy.dnsPorts={53,5353}")  # fmt: skip
    assert read_config(environment(render(*values))) == Config(
        image="wallet-manager/workers:v7",
        pod_name="wm-0",
        pod_namespace="operators",
        allowed_repositories=("wallet-manager/workers", "registry.example/"),
        namespaces=("a", "b"),
        network_policies=True,
        monitoring_namespaces=("m1", "m2"),
        egress_ports=(9093,),
        dns_ports=(53, 5353),
        upgrade_ready_seconds=90.0,
        lease_name="wm-wallet-manager",
    )


def test_a_secret_of_the_users_is_the_operators_environment(render: Render) -> None:
    """A proxy's password need not stand in the values; and what the chart itself writes goes before it."""
    (container,) = only(render("existingSecret=proxy"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "proxy"}}]
    assert "WALLET_OPERATOR_NAMESPACES" in {each["name"] for each in container["env"]}
    (container,) = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "envFrom" not in container


def test_an_image_is_taken_by_its_digest_where_one_is_given(render: Render) -> None:
    """A tag may be moved to another image, a digest cannot."""
    digest = "sha256:" + "5c" * 32
    documents = render(f"image.digest={digest}", "image.tag=v1", f"workers.image.digest={digest}")
    (container,) = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"wallet-manager/operator@{digest}"
    assert read_config(environment(documents)).image == f"wallet-manager/workers@{digest}"
    chart: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (container,) = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"wallet-manager/operator:{chart['appVersion']}"


def test_the_operator_fits_the_restricted_pod_security_standard(render: Render) -> None:
    """It runs in a namespace that enforces it, and so does the test of `helm test`."""
    documents = render()
    for pod in (only(documents, "Deployment")["spec"]["template"]["spec"], only(documents, "Pod")["spec"]):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_definition_stays_when_the_chart_goes(render: Render) -> None:
    """With it every wallet's resource would be deleted, and with these their pods."""
    definition = only(render(), "CustomResourceDefinition")
    assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert definition["spec"] == DEFINITION["spec"]
    assert all(each["kind"] != "CustomResourceDefinition" for each in render("crds.enabled=false"))


def test_nothing_that_needs_another_operator_is_made_unasked(render: Render) -> None:
    """The chart installs on a cluster without the Prometheus operator and without Grafana."""
    kinds = {each["kind"] for each in render()}
    assert not kinds & {"PodMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy"}
    assert {"PodMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy"} <= {
        each["kind"] for each in render(*EVERYTHING)
    }


def test_selectors_find_the_operator_and_the_workers(render: Render) -> None:
    """The policies of the workers let the operator in, and Prometheus finds both."""
    documents = render(*EVERYTHING)
    pods = only(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert OPERATOR_LABELS.items() <= pods.items()
    for kind in ("Service", "NetworkPolicy"):
        spec = only(documents, kind)["spec"]
        assert spec.get("selector", spec.get("podSelector", {}).get("matchLabels")).items() <= pods.items()
    monitor = only(documents, "PodMonitor", "wm-wallet-manager")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pods.items()
    workers = only(documents, "PodMonitor", "wm-wallet-manager-workers")["spec"]
    (condition,) = workers["selector"]["matchExpressions"]
    assert condition["operator"] == "Exists"
    labels = role_labels("mainnet", Role.SYNC)
    assert condition["key"] in labels
    assert condition["key"] not in pods
    assert workers["namespaceSelector"] == {"matchNames": ["wallets", "more-wallets"]}
    (endpoint,) = workers["podMetricsEndpoints"]
    sources = [rule["sourceLabels"][0].removeprefix("__meta_kubernetes_pod_label_") for rule in endpoint["relabelings"]]
    assert sources == [name.translate(str.maketrans("./-", "___")) for name in labels]


@pytest.mark.parametrize("value", ["commonLabels", "podLabels", "podMonitor.labels"])
def test_labels_of_the_users_do_not_take_the_place_of_the_charts(helm: Helm, render: Render, value: str) -> None:
    """Pods that the Deployment's selector does not find are refused, or made without end."""
    options = ("--set", "podMonitor.enabled=true", "--set")
    done = helm("template", "wm", CHART, *options, rf"{value}.app\.kubernetes\.io/component=wallet")
    assert done.returncode != 0
    assert f"{value} sets the label app.kubernetes.io/component" in done.stderr
    documents = render("commonLabels.team=a", "podLabels.team=b", "podLabels.zone=c")
    deployment = only(documents, "Deployment")
    assert deployment["metadata"]["labels"]["team"] == "a"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["zone"]) == ("b", "c")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_test_of_a_release_names_what_is_missing(render: Render) -> None:
    """`helm test --logs` shows the body of /ready. The Service leads to an operator that is not ready, for no
    other could be asked; and the pod has resources, or a quota would refuse it."""
    documents = render()
    assert only(documents, "Service")["spec"]["publishNotReadyAddresses"] is True
    (container,) = only(documents, "Pod")["spec"]["containers"]
    (operator,) = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == operator["resources"]

    class NotReady(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_fault = self.path == "/ready"
            self.send_response(503 if is_fault else 200)
            self.end_headers()
            self.wfile.write(b"the right to list pods in all namespaces\n" if is_fault else b"")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), NotReady) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = container["args"][2].replace("wm-wallet-manager.operators:8080", f"127.0.0.1:{server.server_port}")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env={})
        server.shutdown()
    assert done.returncode == 1
    assert "the right to list pods in all namespaces" in done.stdout
    assert "/metrics 200" in done.stdout


def test_the_operators_network_policy_lets_its_work_through(render: Render) -> None:
    """DNS, the API server and the workers' status out; metrics and the chart's test in."""
    policy = only(render("networkPolicy.enabled=true"), "NetworkPolicy")["spec"]
    dns, api_server, workers = policy["egress"]
    assert dns == {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    assert [each["port"] for each in api_server["ports"]] == [443, 6443]
    assert workers["ports"] == [{"protocol": "TCP", "port": 8080}]
    dns = only(render("networkPolicy.enabled=true", "networkPolicy.dnsPorts={5353}"), "NetworkPolicy")["spec"][
        "egress"
    ][0]
    assert dns == {"ports": [{"protocol": "UDP", "port": 5353}, {"protocol": "TCP", "port": 5353}]}
    (rule,) = policy["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in rule["from"]
    test = only(render(), "Pod")["metadata"]["labels"]
    assert any(each.get("podSelector", {}).get("matchLabels") == test for each in rule["from"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("replica=2", "replica"),
        ("replicas=3", "maximum"),
        ("image.digest=5c", "pattern"),
        ("image.pullPolicy=Sometimes", "one of"),
        ("watchNamespaces=wallets", "array"),
        ("watchNamespaces={Wallets}", "pattern"),
        ("networkPolicy.apiServerPorts={0}", "minimum"),
        ("podMonitor.interval=often", "pattern"),
        ("networkPolicy.dnsPorts={domain}", "integer"),
        ("upgrade.readyTimeoutSeconds=0", "minimum"),
        ("image.repository=registry.example/operator:v1", "pattern"),
        ("image.repository=registry.example/operator@sha256:5c", "pattern"),
        ("workers.image.repository=localhost:5000", "pattern"),
        ("fullnameOverride=Wallet_1", "pattern"),
        ("nameOverride=-wallet", "pattern"),
        ("existingSecret=Proxy", "pattern"),
        ("serviceAccount.name=a/b", "pattern"),
        ("podLabels.team=of wallets", "pattern"),
        ("crds.enabled=perhaps", "boolean"),
        ("workers.image.repo=a", "repo"),
    ],
)
def test_a_wrong_value_is_refused(helm: Helm, value: str, words: str) -> None:
    """A mistyped value would otherwise leave the default in force, silently."""
    done = helm("template", "wm", CHART, "--set", value)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        "image.repository=localhost:5000/operator",
        "allowedRepositories={localhost:5000/,ghcr.io/a/b}",
        "fullnameOverride=w",
    ],
)
def test_a_right_value_is_taken(render: Render, value: str) -> None:
    """A registry may have a port, and a prefix of repositories a slash at its end."""
    assert only(render(value), "Deployment")


def test_the_schema_knows_every_value() -> None:
    """Each value has a description, and its default passes."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    described = {path for path, _, _ in readme.described_values(text)}

    def leaves(part: dict[str, Any], path: str = "") -> set[str]:
        found: set[str] = set()
        for name, each in part["properties"].items():
            below = f"{path}.{name}".lstrip(".")
            found |= leaves(each, below) if "properties" in each and below not in described else {below}
        return found

    assert leaves(schema) - {"global"} == described


def test_notes_name_the_next_command(helm: Helm) -> None:
    """Whoever has installed it knows what to type now. A resource with a namespace of its own, as the examples are, is
    refused under another `--namespace`, so the resource says it."""
    done = helm("install", "wm", CHART, "--dry-run=client", "--namespace", "operators")
    assert "kubectl create secret generic accounts --namespace wallets --from-file" in done.stdout
    assert re.search(
        r"kubectl apply -f walletmanager.yaml +# .* metadata.namespace: wallets$", done.stdout, re.MULTILINE
    )
    assert "kubectl get walletmanagers --all-namespaces --watch" in done.stdout
    done = helm("install", "wm", CHART, "--dry-run=client", "--set", "watchNamespaces={europe}")
    assert "kubectl get walletmanagers --namespace europe --watch" in done.stdout
    assert re.search(
        r"kubectl apply -f walletmanager.yaml +# .* metadata.namespace: europe$", done.stdout, re.MULTILINE
    )
    assert "create namespace" not in done.stdout


def test_an_old_cluster_is_refused(helm: Helm) -> None:
    """The definition's rules and the disruption budgets need a newer API server than that."""
    done: subprocess.CompletedProcess[str] = helm("template", "wm", CHART, "--kube-version", "1.28.0")
    assert "kubeVersion" in done.stderr
    assert helm("template", "wm", CHART, "--kube-version", "1.29.0-eks-1").returncode == 0
