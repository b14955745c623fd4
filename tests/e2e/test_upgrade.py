"""A new release of the workers, brought by `helm upgrade` to several wallets: one after the other."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.conftest import MakeWallet
from e2e.kubectl import Document, Kubectl, eventually
from e2e.nodes import Node
from e2e.operators import counted
from e2e.release import Release
from e2e.wallets import READY_SECONDS_MAX, Wallet, is_ready
from wallet_operator.kinds import DEPLOYMENT, MANAGED_LABEL, MANAGER
from wallet_operator.upgrade import PATIENCE_SECONDS

READY_TIMEOUT = {"readyTimeoutSeconds": 10}
STUCK_SECONDS_MAX = 90.0
"""The operator starts, gives out the turn, waits for READY_TIMEOUT, and writes a status at most every 30 s."""
NO_SUCH_IMAGE = {"repository": "registry.invalid/workers", "tag": "broken"}
NEXT = "next"
History = Callable[[], list[Document]]


def test_an_upgrade_goes_from_wallet_to_wallet_and_stops_at_the_first_that_is_not_ready_with_it(
    kubectl: Kubectl, node: Node, release: Release, make_wallet: MakeWallet, tmp_path: Path
) -> None:
    """A bad release harms no wallet's work; a good one reaches those that work first, and goes on by itself."""
    wallets = [make_wallet(f"upgrade-{name}") for name in ("idle", "one", "two")]
    idle, *working = wallets
    release.upgrade({"upgrade": READY_TIMEOUT})
    idle.apply({"accounts": {"replicas": None}})  # somebody else decides, and will decide for none
    for wallet in working:
        wallet.apply()
    idle.wait_ready(READY_SECONDS_MAX + 60)  # three start at once
    scale_command(kubectl, idle, 0)
    for wallet in working:
        wallet.wait_ready(READY_SECONDS_MAX + 60)
    idle.wait_for("Unknown", "WorkersSilent", STUCK_SECONDS_MAX)
    image = image_of(kubectl, idle)
    node.run(
        "ctr", "--namespace", "k8s.io", "images", "tag", "--force", f"docker.io/{image}", f"docker.io/{tagged(image)}"
    )

    with watching(kubectl, "deployments", tmp_path) as deployments, watching(kubectl, "wm", tmp_path) as resources:
        release.upgrade({"upgrade": READY_TIMEOUT, "workers": {"image": NO_SUCH_IMAGE}})
        wait_stuck(release, stuck=True)
        [first] = [wallet for wallet in working if image_of(kubectl, wallet) != image]
        [second] = [wallet for wallet in working if wallet is not first]
        wait_message(first, "RollingOut", "registry.invalid/workers:broken")
        for waiting in (idle, second):
            stopped = f"the upgrade has stopped: wallet {first.namespace}/wallet is not Ready"
            wait_message(waiting, "WaitsForTurn", stopped)
            assert image_of(kubectl, waiting) == image
        assert [wallet.condition()["status"] for wallet in wallets] == ["Unknown", "True", "True"], "as before"

        release.upgrade({"upgrade": READY_TIMEOUT, "workers": {"image": {"tag": NEXT}}})
        eventually(
            lambda: image_of(kubectl, idle),
            lambda now: now == tagged(image),
            2 * READY_SECONDS_MAX + PATIENCE_SECONDS,
            "the upgrade goes on to the last one",
        )
        wait_stuck(release, stuck=True)
        scale_command(kubectl, idle, 1)
        for wallet in wallets:
            wallet.wait_ready()
        wait_stuck(release, stuck=False)
        assert {image_of(kubectl, wallet) for wallet in wallets} == {tagged(image)}
        went_one_by_one([*deployments(), *resources()], [first, second, idle], tagged(image))


def went_one_by_one(history: list[Document], order: Sequence[Wallet], image: str) -> None:
    """Whether no two wallets were rolled at once, and each only when the one before it was Ready with that image."""
    places = {wallet.namespace: place for place, wallet in enumerate(order)}
    resources: dict[str, Document] = {}
    deployments: dict[str, dict[str, Document]] = {namespace: {} for namespace in places}
    reached: list[str] = []
    # The revision is the whole cluster's, so it also orders what two watches tell.
    for document in sorted(history, key=lambda each: int(each["metadata"]["resourceVersion"])):
        namespace = document["metadata"]["namespace"]
        if namespace not in places:
            continue
        if document["kind"] != DEPLOYMENT.kind:
            resources[namespace] = document
            continue
        deployments[namespace][document["metadata"]["name"]] = document
        rolled = {where for where, found in deployments.items() if any(map(is_rolling, found.values()))}
        assert len(rolled) <= 1, f"{rolled} at once"
        if is_of(document, image) and namespace not in reached:
            before = order[places[namespace] - 1].namespace if reached else None
            assert before is None or (before == reached[-1] and is_ready(resources[before]))
            assert before is None or all(is_of(each, image) for each in deployments[before].values())
            reached.append(namespace)
    assert reached == [wallet.namespace for wallet in order]


def is_rolling(deployment: Document) -> bool:
    """Whether it has not exactly the pods that it should have."""
    wanted, status = deployment["spec"]["replicas"], deployment["status"]
    counts = {status.get("replicas", 0), status.get("updatedReplicas", 0)}
    return status.get("observedGeneration", 0) < deployment["metadata"]["generation"] or counts != {wanted}


def is_of(deployment: Document, image: str) -> bool:
    """Whether its pods are to be of that image."""
    return bool(deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image)


def image_of(kubectl: Kubectl, wallet: Wallet) -> str:
    """The image that sync is to run."""
    deployment = kubectl.get(wallet.namespace, "deployment/wallet-sync")
    found: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


def tagged(image: str) -> str:
    """The same image as the next release."""
    return f"{image.rpartition(':')[0]}:{NEXT}"


def scale_command(kubectl: Kubectl, wallet: Wallet, replicas: int) -> None:
    """As an autoscaler does."""
    kubectl("-n", wallet.namespace, "scale", "deployment/wallet-command", f"--replicas={replicas}")


def wait_stuck(release: Release, *, stuck: bool) -> None:
    """Wait until the metric of the alert says so."""
    pod = release.operator.leader()
    eventually(
        lambda: counted(release.operator.metrics(pod), "wallet_operator_upgrade_stuck"),
        lambda value: value == stuck,
        STUCK_SECONDS_MAX + PATIENCE_SECONDS,
        f"the upgrade is {'' if stuck else 'not '}stuck",
    )


def wait_message(wallet: Wallet, reason: str, words: str) -> None:
    """Wait until the wallet says what it waits for."""
    eventually(
        lambda: wallet.condition("Reconciling"),
        lambda each: each["reason"] == reason and words in each["message"],
        STUCK_SECONDS_MAX,
        f"{wallet.namespace} says {words}",
    )


@contextmanager
def watching(kubectl: Kubectl, what: str, directory: Path) -> Iterator[History]:
    """Every state of the objects of a kind that there is meanwhile."""
    selector = ("-l", f"{MANAGED_LABEL}={MANAGER}") if what == "deployments" else ()
    command: list[str | Path] = [kubectl.program, "get", what, "--all-namespaces", *selector, "--watch", "-o", "json"]
    path = directory / what

    def history() -> list[Document]:
        return list(documents(path.read_text(encoding="utf-8")))

    with path.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, env=dict(kubectl.environment))
        try:
            eventually(history, bool, READY_SECONDS_MAX, f"{what} are watched")
            yield history
        finally:
            process.terminate()
            process.wait()


def documents(text: str) -> Iterator[Document]:
    """The JSON documents of a text, one after the other; the last one may be half written."""
    decoder = json.JSONDecoder()
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield document
