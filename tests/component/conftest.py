"""Real services for the component tests: on free ports of 127.0.0.1, dying with this process.

`kafka`, `redis_server`, `ganache` and `anvil` are shared by the whole session. A test that kills, stops or fills a
service takes one of its own from `make_kafka`, `make_redis`, `make_ganache` or `make_anvil`; those end with the test. A
missing program ends the session: a component test that was skipped has shown nothing.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from component.nursery import ForkedProcess
from component.worker_processes import ANSWER_SECONDS_MAX, Launch
from devstack.errors import DevstackError
from devstack.processes import Child, wait_until
from devstack.services import Anvil, Ganache, Kafka, Redis, Service
from devstack.tools import Tools, install

LOCAL = Path(__file__).resolve().parents[2] / ".local"

S = TypeVar("S", bound=Service)
Make = Callable[..., S]


@pytest.fixture(scope="session")
def tools(request: pytest.FixtureRequest) -> Tools:
    """Every program, installed where it is missing."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if terminal is not None:
            terminal.write_line(line)

    try:
        return install(LOCAL, say, tests=True)
    except DevstackError as error:
        pytest.exit(str(error), returncode=1)


def _started(service: S) -> Iterator[S]:
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def kafka(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    yield from _started(Kafka(tools=tools, data=tmp_path_factory.mktemp("kafka")))


@pytest.fixture(scope="session")
def redis_server(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    yield from _started(Redis(tools=tools, data=tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="session")
def ganache(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ganache]:
    """It mines on transactions and by `evm_mine` only."""
    yield from _started(Ganache(tools=tools, data=tmp_path_factory.mktemp("ganache")))


@pytest.fixture(scope="session")
def anvil(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anvil]:
    """It mines on transactions and by `evm_mine` only."""
    yield from _started(Anvil(tools=tools, data=tmp_path_factory.mktemp("anvil")))


def _factory(kind: type[S], tools: Tools, directory: Path) -> Iterator[Make[S]]:
    """A function that makes and starts services, each in a directory of its own; all end with the test."""
    made: list[S] = []

    def make(**options: Any) -> S:
        service = kind(tools=tools, data=directory / f"{kind.name}-{len(made)}", **options)
        made.append(service)
        service.start()
        return service

    try:
        yield make
    finally:
        for service in made:
            service.stop()


@pytest.fixture
def make_kafka(tools: Tools, tmp_path: Path) -> Iterator[Make[Kafka]]:
    yield from _factory(Kafka, tools, tmp_path)


@pytest.fixture
def make_redis(tools: Tools, tmp_path: Path) -> Iterator[Make[Redis]]:
    yield from _factory(Redis, tools, tmp_path)


@pytest.fixture
def make_ganache(tools: Tools, tmp_path: Path) -> Iterator[Make[Ganache]]:
    yield from _factory(Ganache, tools, tmp_path)


@pytest.fixture
def make_anvil(tools: Tools, tmp_path: Path) -> Iterator[Make[Anvil]]:
    yield from _factory(Anvil, tools, tmp_path)


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts workers from a nursery."""
    directory = tmp_path_factory.mktemp("nursery")
    path = directory / "socket"
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),  # what pytest has found
        "OPENBLAS_NUM_THREADS": "1",  # a process with threads must not fork
    }
    program = [sys.executable, "-m", "component.nursery", str(path)]
    child = Child.start(program, directory / "log", bound=True, env=environ)
    try:
        assert wait_until(path.exists, ANSWER_SECONDS_MAX), child.last_words()
        yield functools.partial(ForkedProcess, path)
    finally:
        child.kill()
