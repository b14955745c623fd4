"""The whole story on one machine: an account on Kafka, a deposit on the chain, the deposit on Kafka.

It installs and starts what is missing, runs the wallet from the example resource exactly as a user would (`walletctl
run`), and then is that user: every step is a walletctl command, printed before it runs. What it started goes on
running; `make down` stops it. Running it again uses what runs already and tells the story with a new account.

The wallet's key belongs to a seed that everybody knows (the one of every development chain), so that the example's
fingerprint fits. It is for play on loopback only.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from devstack import stack, tools
from devstack.__main__ import REPOSITORY, ports_from, say
from devstack.errors import DevstackError
from devstack.processes import Child, Record
from devstack.services import Ganache

PUBLIC_SEED = "test test test test test test test test test test test junk"
EXAMPLE = REPOSITORY / "examples" / "walletmanager-local.yaml"
DEPOSIT_WEI = 1_500_000_000_000_000_000
WORKING_SECONDS_MAX = 60
EVENT_SECONDS_MAX = 60
RUN_LOG_LINES = 15


def main() -> int:
    """Tell the story. Returns the exit code; what goes wrong is one line with its remedy, below what the log says."""
    local = REPOSITORY / ".local"
    try:
        tell(local)
    except DevstackError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def tell(local: Path) -> None:
    """Every step of the story, in order. Raises a DevstackError for the first that fails."""
    chapter("Redis, Kafka and an Ethereum development chain on 127.0.0.1")
    ports = ports_from(os.environ)
    services = stack.up(local, tools.install(local, say, tests=False), ports, say)

    chapter("The wallet, from the same resource that Kubernetes takes")
    resource = resource_file(local, ports)
    write_keys(local / "secrets")
    run_wallet(local, resource)
    walletctl("status", "--wait", "--timeout", str(WORKING_SECONDS_MAX))

    chapter("An address for a customer: a command on Kafka, its answer on address.created")
    account = json.loads(walletctl("account", "create", "--meta", "customer=42", "--wait", "-o", "json"))
    say(json.dumps(account, indent=2))

    chapter("The customer pays 1.5 ETH: detected at once, confirmed three blocks deep")
    txid = pay(services.ganache, account["address"])
    say(f"transaction {txid}")
    events = watch(account["address"], count=2)

    chapter("What happened")
    table(account, events)
    say(
        f"""
Everything goes on running. Go on by hand ({REPOSITORY / ".venv/bin"} holds walletctl):
  walletctl status                              what each worker does
  walletctl account create --meta customer=43 --wait
  walletctl watch --from-beginning              every event of every deposit
  tail -f {local / "log" / "walletctl.log"}
  make down                                     stop all of it"""
    )


def chapter(title: str) -> None:
    """A heading on the screen."""
    say(f"\n\033[1m== {title}\033[0m" if sys.stdout.isatty() else f"\n== {title}")


def resource_file(local: Path, ports: stack.Ports) -> Path:
    """The example, or a copy with other ports where they were chosen by environment variables."""
    default = stack.Ports()
    if ports == default:
        return EXAMPLE
    text = EXAMPLE.read_text(encoding="utf-8")
    for name in ("redis", "kafka", "ganache"):
        text = text.replace(f":{getattr(default, name)}", f":{getattr(ports, name)}")
    copy = local / EXAMPLE.name
    copy.write_text(text, encoding="utf-8")
    return copy


def write_keys(secrets: Path) -> None:
    """The public seed's keys, where `walletctl run` looks for them; keys that are there already are left alone."""
    if not (secrets / "accounts" / "xpub").exists():
        walletctl("keys", "restore", "-", "--secrets", str(secrets), stdin=PUBLIC_SEED)


def run_wallet(local: Path, resource: Path) -> None:
    """`walletctl run`, in the background, unless it runs already."""
    records = stack.records_directory(local)
    running = Record.read(records, "walletctl")
    if running is not None and running.process.alive():
        say(f"walletctl run goes on (pid {running.process.pid})")
        return
    command = [program(), "run", "-f", str(resource)]
    say(f"$ {shlex.join(['walletctl', *command[1:]])} &")
    log = local / "log" / "walletctl.log"
    child = Child.start(command, log, bound=False, cwd=REPOSITORY)
    Record("walletctl", child.process).write(records)


def walletctl(*arguments: str, stdin: str | None = None) -> str:
    """Run a walletctl command to its end and return what it printed. Raises DevstackError where it fails."""
    say(f"$ {shlex.join(['walletctl', *arguments])}")
    command = [program(), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, input=stdin, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        show_log()
        raise DevstackError(
            f"walletctl {arguments[0]} failed (exit code {done.returncode}): mend what stands above, or 'make clean'"
        )
    if "json" not in arguments:
        say(done.stdout.rstrip())
    return done.stdout


def show_log() -> None:
    """The end of `walletctl run`'s log, where there is one."""
    log = REPOSITORY / ".local" / "log" / "walletctl.log"
    if log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-RUN_LOG_LINES:]
        say("\n".join([f"{log} ends with", *lines]))


def pay(ganache: Ganache, address: str) -> str:
    """Send the deposit from one of the development chain's rich accounts; returns the transaction hash."""
    rich = ganache.rpc("eth_accounts")[0]
    return str(ganache.rpc("eth_sendTransaction", {"from": rich, "to": address, "value": hex(DEPOSIT_WEI)}))


def watch(address: str, count: int) -> list[dict[str, Any]]:
    """The first `count` events of a new address, printed as they come."""
    arguments = ["watch", "--from-beginning", "--address", address, "--count", str(count), "-o", "json"]
    say(f"$ {shlex.join(['walletctl', *arguments])}")
    events: list[dict[str, Any]] = []
    command = ["timeout", str(EVENT_SECONDS_MAX), program(), *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as following:
        for line in following.stdout or ():
            say(line.rstrip())
            events.append(json.loads(line))
    if len(events) < count:
        raise DevstackError(f"{len(events)} of {count} events came in {EVENT_SECONDS_MAX} s: run 'walletctl status'")
    return events


def table(account: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """The story in a few lines."""
    say(f"address    {account['address']}")
    for event in events:
        amount = f"{event['value']} {event['asset']['symbol']}"
        say(f"{event['status']:<10} {amount} in block {event['block_number']}  event_id {event['event_id']}")


def program() -> str:
    """The walletctl beside this Python."""
    return str(Path(sys.executable).with_name("walletctl"))


if __name__ == "__main__":
    sys.exit(main())
