"""The images of the cluster: the project's two, and the dev stack's three.

An image's tag is a hash of what it is built from: the files, and the name of the base image. So a tag never means two
things, an image that is there is never built again, and a change of a worker's code changes that image's tag alone.

The dev stack's images take Kafka's jars and Ganache's modules from where `devstack` installed them: the same pins as
for local processes, fetched once.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import DevstackError
from devstack.steps import Progress, StepFailed, run_step
from devstack.tools import Finder, Machine
from kindcluster import engine

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLIC_BASE = "python:3.11-slim-bookworm"
"""What the Dockerfiles start from where nothing else is said."""
BUILD_SECONDS_MAX = 900.0
TAG_LENGTH = 12
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""Every builder knows these arguments, and hands them to what it runs."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: where its Dockerfile is, and all else that decides what is in it. Paths are the repository's."""

    name: str
    dockerfile: str
    inputs: tuple[str, ...]
    installed: tuple[str, str] | None = None
    """What `devstack` installed for it: the name of the pin, and the directory in it."""


OPERATOR = Image(
    "wallet-manager/operator",
    "operator/Dockerfile",
    ("operator/requirements.txt", "core/wallet_core", "operator/wallet_operator"),
)
WORKERS = Image(
    "wallet-manager/workers",
    "workers/Dockerfile",
    ("workers/requirements.txt", "core/wallet_core", "workers/wallet_workers", "cli/wallet_cli"),
)
DEV_REDIS = Image("wallet-manager/dev-redis", "deploy/kind/images/redis/Dockerfile", ())
DEV_KAFKA = Image(
    "wallet-manager/dev-kafka",
    "deploy/kind/images/kafka/Dockerfile",
    ("deploy/kind/images/kafka/kafka.sh", "deploy/local/pins/kafka"),
    installed=("kafka", "jars"),
)
DEV_GANACHE = Image(
    "wallet-manager/dev-ganache",
    "deploy/kind/images/ganache/Dockerfile",
    ("deploy/local/pins/ganache",),
    installed=("ganache", "node_modules"),
)
IMAGES = (OPERATOR, WORKERS, DEV_REDIS, DEV_KAFKA, DEV_GANACHE)


def tag(image: Image, base: str = PUBLIC_BASE, repository: Path = REPOSITORY) -> str:
    """The hash of all that the image is built from."""
    return content_hash(input_files(image, repository), repository, base)


def content_hash(files: Iterable[Path], below: Path, seed: str = "") -> str:
    """A short hash of files: their names below a directory, their modes and contents; and of the seed."""
    digest = hashlib.sha256(f"{seed}\n".encode())
    for path in files:
        content = path.read_bytes()
        executable = os.access(path, os.X_OK)
        digest.update(f"{path.relative_to(below)} {executable} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:TAG_LENGTH]


def reference(image: Image, base: str = PUBLIC_BASE, repository: Path = REPOSITORY) -> str:
    """Name and tag."""
    return f"{image.name}:{tag(image, base, repository)}"


def input_files(image: Image, repository: Path = REPOSITORY) -> Iterator[Path]:
    """Every file that the image is built from, always in the same order."""
    for name in (image.dockerfile, *image.inputs):
        path = repository / name
        if path.is_file():
            yield path
        elif path.is_dir():
            files = (each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
            yield from sorted(files)
        else:
            raise DevstackError(f"{name}, of which {image.name} is made, is missing: check the repository out whole")


def devstack_manifests(base: str = PUBLIC_BASE) -> str:
    """The dev stack's objects as YAML, with the tags of its images."""
    text = (REPOSITORY / "deploy/kind/devstack.yaml").read_text(encoding="utf-8")
    for image in (DEV_REDIS, DEV_KAFKA, DEV_GANACHE):
        text = text.replace(f"image: {image.name}\n", f"image: {reference(image, base)}\n")
    return text


def chart_values(base: str = PUBLIC_BASE) -> str:
    """What `helm --set` is given, so that the chart runs the images that were built here."""
    operator, workers = (reference(image, base).rpartition(":") for image in (OPERATOR, WORKERS))
    return (
        f"image.repository={operator[0]},image.tag={operator[2]},"
        f"workers.image.repository={workers[0]},workers.image.tag={workers[2]}"
    )


def build(image: Image, local: Path, base: str, progress: Progress) -> str:
    """Build the image if it is not there, and return its reference. Raises DevstackError."""
    name = reference(image, base)
    if engine.run(["docker", "images", "--quiet", name]).strip():
        return name
    title, short = f"building {name}", image.name.rpartition("/")[2]
    with _context(image, local) as context:
        dockerfile = REPOSITORY / image.dockerfile
        proxies = [variable for variable in PROXY_VARIABLES if variable in os.environ]
        arguments = [word for each in (f"BASE={base}", *proxies) for word in ("--build-arg", each)]
        command: list[str | Path] = ["docker", "build", "--force-rm", *arguments, "-t", name, "-f", dockerfile, context]
        log = local / "log" / f"build-{short}.log"
        # The plain builder is in every engine; buildx is not, Debian's for one.
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        try:
            run_step(title, command, log, progress, environment=environment, seconds_max=BUILD_SECONDS_MAX)
        except StepFailed as error:
            raise DevstackError(f"{title} failed ({error}): mend that and run it again") from error
    return name


@contextmanager
def _context(image: Image, local: Path) -> Iterator[Path]:
    """The directory that an image is built in: the repository, or for the dev stack's one with what it needs alone."""
    if image in {OPERATOR, WORKERS}:
        yield REPOSITORY
        return
    context = local / "build" / image.name.rpartition("/")[2]
    shutil.rmtree(context, ignore_errors=True)  # what an interrupted build left
    context.mkdir(parents=True)
    try:
        for name in image.inputs:
            if (REPOSITORY / name).is_file():
                shutil.copy2(REPOSITORY / name, context)
        if image.installed is not None:
            pin, directory = image.installed
            source = Finder(local, Machine()).pinned(pin) / directory
            if not source.is_dir():
                raise DevstackError(f"{source} is missing: run 'PYTHONPATH=deploy/local python3 -m devstack install'")
            shutil.copytree(source, context / directory, symlinks=True)
        yield context
    finally:
        shutil.rmtree(context)
