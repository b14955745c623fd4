"""The Docker engine that kind runs its nodes in.

An engine that answers is used as it is. On a bare Debian host, as root, Debian's is installed and started here, and
recorded, so that `down` stops this one and no other. Two kinds of hosts need more:

- A host without CAP_SYS_RESOURCE refuses containers that ask for it: runc gets a wrapper that does not ask.
- Where no route leads to the cluster's networks, their packets would leave by the default route as long as nothing
  answers in the cluster. They are made unreachable from outside it; `down` takes that back.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from devstack.errors import DevstackError, ToolMissing
from devstack.processes import Child, Record, wait_until
from devstack.steps import Progress, StepFailed, run_step

BARE_HOST = Path(__file__).resolve().parent.parent / "bare-host"
PACKAGES = (
    "docker.io", "iptables", "iproute2", "jq", "debootstrap", "containernetworking-plugins", "gcc", "libc6-dev",
)  # fmt: skip
CLIENT_PACKAGE = "docker-cli"
"""Debian 13 packs the client apart; earlier ones know no such package."""
PROGRAMS = ("docker", "dockerd", "iptables", "ip", "jq", "debootstrap", "gcc")
SERVICES = ("docker.socket", "docker.service", "containerd.service")
"""What Debian's packages start at once where systemd runs."""
RUNC_WRAPPER = "runc-without-sys-resource"
WRAPPERS = Path("/usr/local/bin")
CAP_SYS_RESOURCE = 24
CLUSTER_NETWORKS = ("10.96.0.0/16", "10.244.0.0/16")
"""Of Services and of pods; `kind-config.yaml` names the same."""
CLUSTER_LABEL = "io.x-k8s.kind.cluster"
"""kind's own, on the containers that are nodes; its value is the cluster's name."""
START_SECONDS_MAX = 60.0
ANSWER_SECONDS_MAX = 20.0


def run(command: Sequence[str | Path], seconds_max: float | None = None) -> str:
    """What a short command writes on stdout. Raises DevstackError with what it wrote on stderr."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds_max)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DevstackError(f"`{' '.join(map(str, command))}` failed: {error}") from error
    if done.returncode != 0:
        raise DevstackError(f"`{' '.join(map(str, command))}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def answers() -> bool:
    """Whether a Docker engine answers."""
    try:
        run(["docker", "info"], ANSWER_SECONDS_MAX)
    except DevstackError:
        return False
    return True


def is_ours(records: Path) -> bool:
    """Whether the engine was started by `up`: then the host is a bare one, without a registry to count on."""
    record = Record.read(records, "dockerd")
    return (record is not None and record.process.alive()) or _services_record(records).exists()


def runs_nodes() -> bool:
    """Whether nodes of any kind cluster run in it."""
    return bool(answers() and run(["docker", "ps", "--quiet", "--filter", f"label={CLUSTER_LABEL}"]).strip())


def has_sys_resource() -> bool:
    """Whether a process here may ask for CAP_SYS_RESOURCE."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding, 16) >> CAP_SYS_RESOURCE & 1)


def up(local: Path, records: Path, progress: Progress) -> None:
    """Leave an engine behind that answers. Raises ToolMissing, DevstackError."""
    if answers():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ToolMissing("no Docker engine answers: start it, or run this as root on Debian to have one installed")
    records.mkdir(parents=True, exist_ok=True)
    if any(shutil.which(program) is None for program in PROGRAMS):
        _install(local, progress)
        if answers():  # systemd started it
            _services_record(records).touch()
    _hide_networks(records)
    record = Record.read(records, "dockerd")
    if record is None or not record.process.alive():
        if answers():
            return
        _start(local, records, progress)
    elif not wait_until(answers, START_SECONDS_MAX):
        raise DevstackError(f"dockerd (pid {record.process.pid}) does not answer: 'make cluster-down', then again")


def down(records: Path, progress: Progress) -> None:
    """Stop the engine that `up` started, remove its networks, and show the networks again that `up` hid."""
    if is_ours(records):
        if answers():  # takes the bridge and its rules along
            subprocess.run(["docker", "network", "rm", "kind"], capture_output=True, check=False)
        _stop(records, progress)
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
        _remove_rules()
        (WRAPPERS / RUNC_WRAPPER).unlink(missing_ok=True)
    Record.path(records, "dockerd").unlink(missing_ok=True)
    hidden = _hidden_record(records)
    if hidden.exists():
        for network in json.loads(hidden.read_text(encoding="ascii")):
            subprocess.run(["ip", "route", "delete", "unreachable", network], capture_output=True, check=False)
        hidden.unlink()


def _start(local: Path, records: Path, progress: Progress) -> None:
    command: list[str | Path] = ["dockerd"]
    if not has_sys_resource():
        wrapper = WRAPPERS / RUNC_WRAPPER
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BARE_HOST / "node-image" / RUNC_WRAPPER, wrapper)
        wrapper.chmod(0o755)
        name = wrapper.name.removeprefix("runc-")
        command += ["--add-runtime", f"{name}={wrapper}", "--default-runtime", name]
    log = local / "log" / "dockerd.log"
    child = Child.start(command, log, bound=False)
    Record("dockerd", child.process).write(records)
    wait_until(lambda: not child.alive() or answers(), START_SECONDS_MAX)
    if not answers():
        down(records, progress)
        raise DevstackError(f"dockerd did not answer within {START_SECONDS_MAX:g} s: {child.last_words()} (see {log})")
    progress(f"the Docker engine answers (pid {child.process.pid})")


def _stop(records: Path, progress: Progress) -> None:
    record = Record.read(records, "dockerd")
    if record is not None and record.process.stop():
        progress(f"stopped the Docker engine (pid {record.process.pid}); what was built stays in /var/lib/docker")
    if _services_record(records).exists():
        run(["systemctl", "disable", "--now", *SERVICES])
        _services_record(records).unlink()
        progress("stopped Docker's services, and they do not start again by themselves")


def _install(local: Path, progress: Progress) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log = local / "log" / "install-docker.log"
    packages = f"{' '.join(PACKAGES)} $(apt-cache pkgnames {CLIENT_PACKAGE} | grep -x {CLIENT_PACKAGE})"
    command = ["sh", "-c", f"apt-get update && apt-get install -y --no-install-recommends {packages}"]
    try:
        run_step("installing Debian's Docker engine", command, log, progress, environment=environment)
    except StepFailed as error:
        raise ToolMissing(f"{error}: apt-get install {' '.join(PACKAGES)}") from error


def _hide_networks(records: Path) -> None:
    record = _hidden_record(records)
    hidden = json.loads(record.read_text(encoding="ascii")) if record.exists() else []
    for network in CLUSTER_NETWORKS:
        routes = run(["ip", "-4", "route", "show", "to", "match", network.split("/")[0]]).splitlines()
        if all(route.startswith("default") for route in routes):
            hidden.append(network)
            record.write_text(json.dumps(hidden), encoding="ascii")  # before it is so: `down` must know
            run(["ip", "route", "add", "unreachable", network])


def _remove_rules() -> None:
    """The packet filter's rules as they are, without Docker's; forwarding as the kernel has it by default."""
    for family in ("iptables", "ip6tables"):
        saved = subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False).stdout
        kept = [line for line in saved.splitlines() if "DOCKER" not in line and "docker0" not in line]
        text = "\n".join(line.replace(":FORWARD DROP", ":FORWARD ACCEPT") for line in kept)
        subprocess.run([f"{family}-restore"], input=f"{text}\n", capture_output=True, text=True, check=False)


def _hidden_record(records: Path) -> Path:
    return records / "hidden-networks"


def _services_record(records: Path) -> Path:
    return records / "services-started-by-apt"
