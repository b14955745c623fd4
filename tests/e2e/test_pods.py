"""A worker's pod dies: another one goes on where it was, with nothing lost and nothing said twice."""

import json
import subprocess
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.conftest import MakeKey, MakeWallet
from e2e.deposits import check_books, paying
from e2e.kubectl import Document, eventually
from e2e.nodes import Node
from e2e.operators import counted, name_of
from e2e.wallets import Wallet
from wallet_operator.network import STATUS_PORT

COMMANDS = 3000
UNDER_WAY = 1000
"""So many at least are being answered when the worker dies: more than one transaction of 500."""
SENT_BEFORE = 2000
"""The others come while it does not move any more, and so cannot have been answered."""
TAKE_OVER_SECONDS_MAX = 60.0
"""The lock's time to live is 6 s; with an allowance for a busy machine."""
ANSWERED_SECONDS_MAX = 180.0
GONE_SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def lasting_wallet(make_lasting_wallet: MakeWallet) -> Wallet:
    return make_lasting_wallet("pods")


@pytest.fixture
def wallet(lasting_wallet: Wallet) -> Wallet:
    """A wallet that works, whatever the test before left of it."""
    lasting_wallet.apply({"sync": {"shards": 2}})
    lasting_wallet.wait_ready()
    return lasting_wallet


def test_another_shard_leads_when_the_leader_is_deleted(wallet: Wallet, node: Node) -> None:
    """Asked to go, or dead without a word: while deposits flow, none is lost and none is reported twice."""
    run = uuid.uuid4().hex
    accounts = wallet.create_accounts(*(f"{run}-{number}" for number in range(3)))
    first = wallet.wait_leader()
    standbys = [uid_of(pod) for pod in wallet.pods("sync") if uid_of(pod) != uid_of(first)]

    with paying(wallet, accounts.values()) as payments:
        wallet.kubectl("-n", wallet.namespace, "delete", "pod", name_of(first), "--wait=false")
        second = wallet.wait_leader(but=uid_of(first), seconds=TAKE_OVER_SECONDS_MAX)
        assert [uid_of(second)] == standbys, "a pod that stood by was there at once"
        wait_at_work(wallet, second)

        kill(wallet, second, node)
        third = wallet.wait_leader(but=uid_of(second), seconds=TAKE_OVER_SECONDS_MAX)
        wait_at_work(wallet, third)

    assert uid_of(third) != uid_of(first)
    check_books(wallet, payments)
    wallet.wait_ready()


def test_commands_under_way_are_answered_once_when_their_worker_dies(
    wallet: Wallet, node: Node, make_key: MakeKey, tmp_path: Path
) -> None:
    """Those that it had answered stay, those that it had not are answered by the next one, and each has its address."""
    run = uuid.uuid4().hex
    ids = [f"{run}-{number}" for number in range(COMMANDS)]
    commands = [{"type": "create_account", "id": each, "meta": {"customer": place}} for place, each in enumerate(ids)]
    topic = f"{wallet.topic_prefix}command"
    [worker] = wallet.pods("command")
    [pid] = worker_pids(worker, node)
    before = created(wallet, worker)

    with ThreadPoolExecutor(1) as background:
        sending = background.submit(wallet.toolbox.send, topic, commands[:SENT_BEFORE])
        eventually(
            lambda: created(wallet, worker) - before,
            lambda count: count >= UNDER_WAY,
            ANSWERED_SECONDS_MAX,
            f"{UNDER_WAY} commands are under way",
        )
        with node.frozen(pid):  # so that it dies where it stands, and what it did is known
            sending.result()
            wallet.toolbox.send(topic, commands[SENT_BEFORE:])
            assert 0 < len(answers(wallet, run)) <= SENT_BEFORE
            wallet.kubectl("-n", wallet.namespace, "delete", "pod", name_of(worker), "--force", "--grace-period=0")
            wait_dead(worker, node)

    found = eventually(
        lambda: answers(wallet, run),
        lambda records: {each["id"] for each in records} >= set(ids),
        ANSWERED_SECONDS_MAX,
        "every command is answered",
    )
    assert Counter(each["id"] for each in found) == Counter(ids)
    addresses = {each["id"]: each["address"] for each in found}
    assert len(set(addresses.values())) == COMMANDS
    assert wallet.toolbox.read(f"{wallet.topic_prefix}errors") == []
    for place in (0, UNDER_WAY, COMMANDS - 1):
        assert addresses[ids[place]] == derived_address(make_key(0)[0], ids[place], place, tmp_path)
    wallet.wait_ready()


def kill(wallet: Wallet, pod: Document, node: Node) -> None:
    """Without a word: neither its SIGTERM nor anything else reaches it before its end. Returns when it is dead."""
    [pid] = worker_pids(pod, node)
    with node.frozen(pid):
        wallet.kubectl("-n", wallet.namespace, "delete", "pod", name_of(pod), "--force", "--grace-period=0")
        wait_dead(pod, node)


def wait_dead(pod: Document, node: Node) -> None:
    """Wait until a pod's process has ended."""
    eventually(lambda: worker_pids(pod, node), lambda pids: pids == [], GONE_SECONDS_MAX, f"{name_of(pod)} is dead")


def worker_pids(pod: Document, node: Node) -> list[int]:
    """Its process, by its number in the node."""
    return node.pids("python -m wallet_workers", f"HOSTNAME={name_of(pod)}")


def wait_at_work(wallet: Wallet, leader: Document) -> None:
    """Wait until a new leader has read where it is to go on, and follows the chain."""
    eventually(
        lambda: wallet.worker_status(leader),
        lambda status: status["reason"] == "Working" and status.get("lag") == 0,
        TAKE_OVER_SECONDS_MAX,
        f"{name_of(leader)} follows the chain",
    )


def created(wallet: Wallet, worker: Document) -> float:
    """How many accounts a worker has derived, by its metrics."""
    path = f"/api/v1/namespaces/{wallet.namespace}/pods/{name_of(worker)}:{STATUS_PORT}/proxy/metrics"
    return counted(wallet.kubectl("get", "--raw", path), "wallet_commands_total", outcome="created")


def answers(wallet: Wallet, run: str) -> list[Document]:
    """What `address.created` says of one test's commands."""
    values = (record["value"] for record in wallet.toolbox.read(f"{wallet.topic_prefix}address.created"))
    return [value for value in values if value["id"].startswith(run)]


def derived_address(xpub: str, command_id: str, customer: int, directory: Path) -> str:
    """The address of a command, as walletctl derives it offline."""
    xpub_file = directory / "xpub"
    xpub_file.write_text(xpub, encoding="ascii")
    command: list[str | Path] = [Path(sys.executable).with_name("walletctl"), "keys", "derive", "-o", "json"]
    command += ["--xpub-file", xpub_file, "--id", command_id, "--meta-json", f'{{"customer":{customer}}}']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    address: str = json.loads(done.stdout)["address"]
    return address


def uid_of(pod: Document) -> str:
    """Which pod it is."""
    uid: str = pod["metadata"]["uid"]
    return uid
