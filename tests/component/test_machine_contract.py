"""What everybody relies on of time and of secret files, on the fakes and on the machine's own."""

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from wallet_core.errors import SecretMissing
from wallet_core.ports import Clock, SecretFile
from wallet_core.resource import SecretSource
from wallet_core.testing.fake_clock import FakeClock
from wallet_workers.adapters.secret_files import SecretKeyFile
from wallet_workers.adapters.system_clock import SystemClock
from wallet_world import FakeSecret

SLEEP_SECONDS = 0.05
SLACK = 0.9
"""A timer may fire a little early by another clock than its own."""


@pytest.fixture(params=[FakeClock, SystemClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


class TestClock:
    async def test_time_does_not_go_back(self, clock: Clock) -> None:
        """A deadline that has passed stays passed."""
        seen = [clock.monotonic() for _ in range(100)]
        assert seen == sorted(seen)
        assert clock.unix_time() > 1_600_000_000

    async def test_a_sleep_lets_time_pass(self, clock: Clock) -> None:
        """By both kinds of time, at least as much as was asked for."""
        monotonic, unix_time = clock.monotonic(), clock.unix_time()
        await clock.sleep(SLEEP_SECONDS)
        assert clock.monotonic() - monotonic >= SLEEP_SECONDS * SLACK
        assert clock.unix_time() - unix_time >= SLEEP_SECONDS * SLACK

    async def test_others_run_meanwhile(self, clock: Clock) -> None:
        """Even during a sleep of no length at all."""
        ran: list[bool] = []

        async def run() -> None:
            ran.append(True)

        other = asyncio.create_task(run())
        await clock.sleep(0)
        assert ran
        await other


class SecretWorld(ABC):
    file: SecretFile

    @abstractmethod
    def write(self, content: str) -> None: ...


class FakeSecretWorld(SecretWorld):
    def __init__(self) -> None:
        self._fake = FakeSecret(None)
        self.file = self._fake

    def write(self, content: str) -> None:
        self._fake.content = content


class DirectoryWorld(SecretWorld):
    def __init__(self, directory: Path) -> None:
        self._path = directory / "accounts" / "xpub"
        source = {"secretKeyRef": {"name": "accounts", "key": "xpub"}}
        self.file = SecretKeyFile(directory, SecretSource.model_validate(source))

    def write(self, content: str) -> None:
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(content)


@pytest.fixture(params=["fake", "directory"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> SecretWorld:
    return FakeSecretWorld() if request.param == "fake" else DirectoryWorld(tmp_path)


class TestSecretFile:
    def test_a_secret_that_comes_later_is_read(self, secrets: SecretWorld) -> None:
        """Until then its name is said, and never a content; afterwards it is read as it is then."""
        with pytest.raises(SecretMissing, match="accounts/xpub"):
            secrets.file.read()
        secrets.write("xpub1")
        assert secrets.file.read() == "xpub1"
        secrets.write("xpub2")
        assert secrets.file.read() == "xpub2"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"], ids=["empty", "blank", "not UTF-8"])
def test_an_unusable_secret_is_as_good_as_missing(content: bytes, tmp_path: Path) -> None:
    """A file that is being written, or a wrong one, is waited for like none; its bytes are not in the message."""
    world = DirectoryWorld(tmp_path)
    world.write("  xpub1\n")
    assert world.file.read() == "xpub1"
    (tmp_path / "accounts" / "xpub").write_bytes(content)
    with pytest.raises(SecretMissing) as raised:
        world.file.read()
    assert str(raised.value) == "accounts/xpub"
