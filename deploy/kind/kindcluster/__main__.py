"""The command line: `python -m kindcluster up | down`, with PYTHONPATH=deploy/local:deploy/kind.

`up` leaves a cluster behind in which the dev stack and the operator run; what is there already stays. `down` removes
all that `up` made, a Docker engine of its own included; built images stay in Docker's store, so that the next cluster
is there in a minute.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from devstack import tools as devstack_tools
from devstack.__main__ import REPOSITORY, say
from devstack.errors import DevstackError
from devstack.steps import Progress
from kindcluster import cluster, engine, images, tools
from kindcluster.cluster import DEFAULT_NAME, Cluster

CHART = REPOSITORY / "deploy" / "helm" / "wallet-manager"
OPERATOR_NAMESPACE = "wallet-manager"
READY_SECONDS_MAX = 300


def up(local: Path, progress: Progress, name: str = DEFAULT_NAME, patch: Path | None = None) -> Cluster:
    """The cluster of that name with everything in it; `patch`: see `cluster.create`. Raises DevstackError."""
    records = _records(local)
    engine.up(local, records, progress)
    devstack_tools.install(local, progress, tests=False)  # Kafka and Ganache, of which images are made
    helm, kubectl = (tools.install(tool, local, progress) for tool in ("helm", "kubectl"))
    is_bare = cluster.needs_images_from_here(records)
    go = tools.install("go", local, progress) if is_bare else None
    made = Cluster(name, local, tools.install("kind", local, progress), kubectl, is_bare)
    cluster.create(made, go, patch, progress)
    cluster.load(made, [images.build(image, local, made.base, progress) for image in images.IMAGES], progress)
    _apply(made, "the dev stack", images.devstack_manifests(made.base))
    install_chart(made, helm, progress)
    for namespace in ("devstack", OPERATOR_NAMESPACE):
        condition = ["--for=condition=Available", f"--timeout={READY_SECONDS_MAX}s"]
        command: list[str | Path] = [kubectl, "wait", "-n", namespace, "deployment", "--all", *condition]
        made.step(f"wait-{namespace}", f"waiting for what runs in {namespace}", command, progress)
    return made


def install_chart(made: Cluster, helm: Path, progress: Progress) -> None:
    """`helm upgrade --install` of the chart, with the images that were built here."""
    command: list[str | Path] = [
        helm, "upgrade", "--install", "wallet-manager", CHART,
        "--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", f"--timeout={READY_SECONDS_MAX}s",
        "--set-string", images.chart_values(made.base),
    ]  # fmt: skip
    made.step("helm", "installing the chart", command, progress)


def down(local: Path, progress: Progress, name: str = DEFAULT_NAME) -> None:
    """Remove what `up` made; the engine with the last cluster that runs in it."""
    if engine.answers():
        cluster.delete(name, local, progress)
    if not engine.runs_nodes():
        engine.down(_records(local), progress)


def _apply(made: Cluster, title: str, manifests: str) -> None:
    command: list[str | Path] = [made.kubectl, "apply", "-f", "-"]
    done = subprocess.run(command, input=manifests, text=True, capture_output=True, env=made.environment, check=False)
    if done.returncode != 0:
        raise DevstackError(f"{title} could not be applied: {done.stderr.strip()}: 'make cluster-down', then again")


def _records(local: Path) -> Path:
    return local / "cluster"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kindcluster", description="A kind cluster with wallet-manager.")
    parser.add_argument("--local", type=Path, default=REPOSITORY / ".local", help="where everything lies (%(default)s)")
    parser.add_argument("--name", default=DEFAULT_NAME, help="the cluster's (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="make the cluster, with the dev stack and the chart")
    commands.add_parser("down", help="remove all that `up` made")
    options = parser.parse_args(arguments)
    local = options.local.resolve()
    try:
        (up if options.command == "up" else down)(local, say, options.name)
    except DevstackError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
