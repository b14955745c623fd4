"""kind's cluster: of kind's own node image, or, on a bare host, of one that is built here.

A bare host reaches no container registry, so its node image is laid out from Go modules and Debian packages
(`bare-host/node-image/build.sh`): about 10 minutes on two cores the first time, a minute or two when Go's build cache
is warm, nothing when the image is there. So is the base image of all Dockerfiles (`bare-host/base-image.sh`).
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from devstack.errors import DevstackError
from devstack.processes import wait_until
from devstack.steps import Progress, StepFailed, run_step
from kindcluster import engine
from kindcluster.images import PUBLIC_BASE, REPOSITORY, content_hash

DEFAULT_NAME = "wallet-manager"
NODE_IMAGE_SCRIPT = engine.BARE_HOST / "node-image" / "build.sh"
BASE_IMAGE_SCRIPT = engine.BARE_HOST / "base-image.sh"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CONFIG = REPOSITORY / "kind-config.yaml"
BARE_PATCH = engine.BARE_HOST / "kind-patch.yaml"
BUILD_SECONDS_MAX = 3600.0
STEP_SECONDS_MAX = 1200.0
"""The longest takes stock kind, which pulls its node image."""
ANSWER_SECONDS_MAX = 90.0
"""For a node that has just been started."""
REQUEST_SECONDS_MAX = 10


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, and how to reach it."""

    name: str
    local: Path
    kind: Path
    kubectl: Path
    is_bare: bool
    """Whether its images are built here, for want of a registry."""

    @property
    def base(self) -> str:
        """The image that Dockerfiles start from."""
        return base_image() if self.is_bare else PUBLIC_BASE

    @property
    def node(self) -> str:
        """The container that is the cluster's one node."""
        return f"{self.name}-control-plane"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl and helm."""
        return _kubeconfig(self.name, self.local)

    @property
    def environment(self) -> dict[str, str]:
        """The same, as they find it."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kind_command(self, verb: str, what: str = "cluster") -> list[str | Path]:
        """The command line of kind for it."""
        return [self.kind, verb, what, "--name", self.name, "--kubeconfig", self.kubeconfig]

    def step(self, log: str, title: str, command: Sequence[str | Path], progress: Progress) -> None:
        """Run a command on the cluster, with progress. Raises DevstackError."""
        path = self.local / "log" / f"{self.name}-{log}.log"
        try:
            run_step(title, command, path, progress, environment=self.environment, seconds_max=STEP_SECONDS_MAX)
        except StepFailed as error:
            raise DevstackError(f"{title} failed ({error}): 'make cluster-down', then again") from error


def create(cluster: Cluster, go: Path | None, patch: Path | None, progress: Progress) -> None:
    """Make the cluster if it is not there, or does not answer. Raises DevstackError.

    `go`: a Go toolchain for a bare host. `patch`: a file with what the cluster needs on top of `kind-config.yaml`.
    """
    if cluster.is_bare:
        _build_images(cluster.local, go, progress)
    if _nodes(cluster.name):
        if _revive(cluster):
            progress(f"the cluster {cluster.name} is there already")
            return
        progress(f"the cluster {cluster.name} does not answer within {ANSWER_SECONDS_MAX:g} s: it is made anew")
        delete(cluster.name, cluster.local, progress)
    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in _configs(cluster, patch)]
    config = cluster.local / f"{cluster.name}.kind.yaml"
    config.write_text(yaml.safe_dump(merged(documents)), encoding="utf-8")
    image = ["--image", node_image()] if cluster.is_bare else []
    options: list[str | Path] = [*image, "--config", config, "--wait", "120s"]
    try:
        cluster.step(
            "create", f"creating the cluster {cluster.name}", [*cluster.kind_command("create"), *options], progress
        )
    except DevstackError as error:
        delete(cluster.name, cluster.local, progress)
        build = (
            "" if cluster.is_bare else f"; where no registry answers, 'bash {NODE_IMAGE_SCRIPT} {node_image()}' first"
        )
        raise DevstackError(f"{error}{build}") from error


def delete(name: str, local: Path, progress: Progress) -> None:
    """Remove the cluster of that name, with all that ran in it."""
    nodes = _nodes(name)
    if nodes:
        engine.run(["docker", "rm", "--force", "--volumes", *nodes])
        progress(f"removed the cluster {name}")
    _kubeconfig(name, local).unlink(missing_ok=True)


def load(cluster: Cluster, references: Sequence[str], progress: Progress) -> None:
    """Give the node those of the images that it lacks. Raises DevstackError."""
    there = engine.run(["docker", "exec", cluster.node, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet"])
    missing = [reference for reference in references if f"docker.io/{reference}" not in there.split()]
    if missing:  # at once, since they share layers
        loading: list[str | Path] = [cluster.kind, "load", "docker-image", "--name", cluster.name, *missing]
        cluster.step("load", f"loading {len(missing)} images into it", loading, progress)


def needs_images_from_here(records: Path) -> bool:
    """Whether the host is a bare one: its engine is ours, or its node image was built here before."""
    return engine.is_ours(records) or _has_image(node_image())


def node_image() -> str:
    """The node image for a bare host; its tag is a hash of all that it is built from."""
    files = sorted(path for path in NODE_IMAGE_SCRIPT.parent.rglob("*") if path.is_file())
    return f"wallet-manager/kind-node:{content_hash(files, engine.BARE_HOST)}"


def base_image() -> str:
    """The base image for a bare host; its tag is a hash of all that it is built from, this host's certificates too."""
    certificates = CERTIFICATES.read_text(encoding="utf-8") if CERTIFICATES.exists() else ""
    return f"wallet-manager/base:{content_hash([BASE_IMAGE_SCRIPT], engine.BARE_HOST, certificates)}"


def merged(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One kind configuration of several: what is a list in each is appended, but for the one node, which is merged."""
    result: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            if key == "nodes" and key in result:
                result[key] = [merged([*result[key], *value])]
            else:
                result[key] = [*result[key], *value] if isinstance(value, list) and key in result else value
    return result


def _configs(cluster: Cluster, patch: Path | None) -> list[Path]:
    return [CONFIG, *([BARE_PATCH] if cluster.is_bare else []), *([patch] if patch else [])]


def _kubeconfig(name: str, local: Path) -> Path:
    return local / f"{name}.kubeconfig"


def _nodes(name: str) -> list[str]:
    """The containers that are the cluster's nodes, running or not."""
    label = f"label={engine.CLUSTER_LABEL}={name}"
    return engine.run(["docker", "ps", "--all", "--quiet", "--filter", label]).split()


def _revive(cluster: Cluster) -> bool:
    """Whether the cluster answers, once its node is started where it is not running."""
    try:
        engine.run(["docker", "start", cluster.node])
        engine.run(cluster.kind_command("export", "kubeconfig"))
    except DevstackError:
        return False
    command: list[str | Path] = [
        cluster.kubectl,
        "get",
        "--raw",
        "/readyz",
        f"--request-timeout={REQUEST_SECONDS_MAX}s",
    ]

    def answers() -> bool:
        return subprocess.run(command, capture_output=True, env=cluster.environment, check=False).returncode == 0

    return wait_until(answers, ANSWER_SECONDS_MAX)


def _build_images(local: Path, go: Path | None, progress: Progress) -> None:
    environment = dict(os.environ)
    if go is not None:
        environment["PATH"] = f"{go.parent}{os.pathsep}{environment['PATH']}"
    for image, title, script in (
        (node_image(), "building the node image (10 minutes the first time)", NODE_IMAGE_SCRIPT),
        (base_image(), "building the base image", BASE_IMAGE_SCRIPT),
    ):
        if not _has_image(image):
            log = local / "log" / f"{image.split('/')[1].split(':')[0]}.log"
            command: list[str | Path] = ["bash", script, image]
            try:
                run_step(title, command, log, progress, environment=environment, seconds_max=BUILD_SECONDS_MAX)
            except StepFailed as error:
                raise DevstackError(f"{title} failed ({error}): mend that and run it again") from error


def _has_image(image: str) -> bool:
    return bool(engine.run(["docker", "images", "--quiet", image]).strip())
