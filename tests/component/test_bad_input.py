"""What callers and whoever writes settings can get wrong, against the real workers."""

import base64
import hashlib
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from component.worker_processes import PythonProcess, Wallet, Worker, running_wallet
from devstack.processes import free_port
from devstack.services import Anvil, Kafka, Redis
from wallet_core.messages import EXCERPT_SIZE_MAX, ErrorEvent, Topic
from wallet_core.settings import Role

MEGABYTE = 1_000_000
"""Nearly the largest message that a broker takes by default."""
RANDOM = random.Random(3)  # noqa: S311 - nonsense need not be unguessable


@dataclass(frozen=True)
class Bad:
    """A message that cannot be carried out, and how it is refused."""

    error_code: str
    value: bytes | None
    headers: tuple[tuple[str | bytes, bytes], ...] = ()
    """A name given in bytes is sent as it is."""
    key: bytes | None = b"caller"


def command(**fields: object) -> bytes:
    return json.dumps({"type": "create_account", "id": "refused", **fields}).encode()


BAD_COMMANDS: Mapping[str, Bad] = {
    "null value": Bad("null_value", None),
    "no key": Bad("bad_json", b"nonsense", key=None),
    "not UTF-8": Bad("not_utf8", b'{"type": "create_account", "id": "\xff"}'),
    "no JSON": Bad("bad_json", b"hello, I would like an account"),
    "empty": Bad("bad_json", b""),
    "an array": Bad("bad_json", b"[]"),
    "a key twice": Bad("bad_json", b'{"type": "create_account", "id": "a", "id": "b"}'),
    "5,000 nested brackets": Bad("bad_json", b"[" * 5_000 + b"]" * 5_000),
    "5,000 nested objects in meta": Bad("bad_json", b'{"type":"create_account","meta":' + b'{"a":' * 5_000),
    "no type": Bad("unknown_type", b'{"id": "x"}'),
    "unknown type": Bad("unknown_type", command(type="close_account")),
    "nothing to watch": Bad("bad_address", command(type="watch_address")),
    "meta is an array": Bad("bad_meta", command(meta=[1])),
    "meta is null": Bad("bad_meta", command(meta=None)),
    "NaN in meta": Bad("bad_meta", b'{"type": "create_account", "id": "x", "meta": {"a": NaN}}'),
    "a lone surrogate in meta": Bad("bad_meta", command(meta={"a": "\ud800"})),
    "meta too large": Bad("meta_too_large", command(meta={"a": "x" * 40_000})),
    "id is a number": Bad("bad_id", command(id=17)),
    "id is empty": Bad("bad_id", command(id="")),
    "id too long": Bad("bad_id", command(id="x" * 257)),
    "two ids": Bad("id_mismatch", command(), headers=(("ce_id", b"another"),)),
    "the name of a header is not UTF-8": Bad("unreadable", command(), headers=((b"\xff\xfe\x00i", b"x"),)),
    "a megabyte of letters": Bad("bad_json", b"nonsense " * (MEGABYTE // 9)),
    "a megabyte of quotes": Bad("bad_json", b'"' * MEGABYTE),
    "a megabyte of bytes": Bad("not_utf8", RANDOM.randbytes(MEGABYTE)),
    "a megabyte of control characters": Bad("bad_json", b"\x01" * MEGABYTE),
    "a megabyte of meta": Bad("meta_too_large", command(meta={"a": "€" * (MEGABYTE // 10)})),
    "half a megabyte of key": Bad("bad_json", b"nonsense", key=b"k" * (MEGABYTE // 2)),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wallet(
    tmp_path_factory: pytest.TempPathFactory, kafka: Kafka, redis_server: Redis, anvil: Anvil
) -> AsyncIterator[Wallet]:
    """One wallet with a command worker for all bad commands."""
    changes = {"spec": {"kafka": {"partitions": 1}}}
    async with running_wallet(tmp_path_factory.mktemp("wallet"), kafka, redis_server, anvil, changes=changes) as wallet:
        await wallet.bootstrap()
        worker = wallet.start(Role.COMMAND)
        await worker.until(lambda said: bool(said.get("partitions")))
        yield wallet
        assert worker.process.exit_code is None
        assert not worker.logged("command_failed")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", BAD_COMMANDS)
async def test_a_bad_command_is_refused_and_the_next_one_served(wallet: Wallet, name: str) -> None:
    """It becomes an event on `errors` with its code and the message as it came, cut; its partition goes on."""
    bad = BAD_COMMANDS[name]
    journal = await wallet.journal()
    before = len(journal.of(Topic.ERRORS))
    offset = await wallet.send(bad.value, bad.key, bad.headers)
    assert await wallet.create_account({"after": name})
    await journal.read_to_end()
    (record,) = journal.of(Topic.ERRORS)[before:]
    event = ErrorEvent.model_validate_json(record.value or b"")
    assert event.error_code == bad.error_code
    assert event.error_message
    assert event.error_stack is None
    request = event.request
    assert (request.topic, request.partition, request.offset) == (wallet.prefix + Topic.COMMAND, 0, offset)
    assert original(request.value, request.encoding) == cut(bad.value)
    assert original(request.key, request.key_encoding) == cut(bad.key)
    assert request.size == len(bad.value or b"")
    assert request.sha256 == (None if bad.value is None else hashlib.sha256(bad.value).hexdigest())
    assert request.truncated == (max(len(bad.value or b""), len(bad.key or b"")) > EXCERPT_SIZE_MAX)
    assert record.key == (bad.key or b"")[:EXCERPT_SIZE_MAX]
    assert record.headers["ce_id"].decode() == f"{wallet.prefix}{Topic.COMMAND}-0-{offset}"


def original(excerpt: str | None, encoding: str) -> bytes | None:
    if excerpt is None:
        return None
    return base64.b64decode(excerpt) if encoding == "base64" else excerpt.encode()


def cut(content: bytes | None) -> bytes | None:
    """The first 64 KiB; of text, no half character at the end."""
    if content is None or len(content) <= EXCERPT_SIZE_MAX:
        return content
    excerpt = content[:EXCERPT_SIZE_MAX]
    try:
        content.decode()
    except UnicodeDecodeError:
        return excerpt
    return excerpt.decode(errors="ignore").encode()


# --- settings ---------------------------------------------------------------------------------------------------------

MISSING: Mapping[Role, tuple[str, ...]] = {
    Role.BOOTSTRAP: ("WALLET_NAME", "WALLET_CHAIN_ID", "WALLET_KAFKA_BOOTSTRAP_SERVERS", "WALLET_ACCOUNTS_FINGERPRINT"),
    Role.COMMAND: ("WALLET_NAMESPACE", "WALLET_CHAIN_ID", "WALLET_ACCOUNTS_XPUB_FROM_SECRET_KEY_REF_KEY"),
    Role.SYNC: ("WALLET_GENERATION", "WALLET_CHAIN_RPC", "WALLET_ASSETS"),
}
MALFORMED: Mapping[Role, Mapping[str, str]] = {
    Role.BOOTSTRAP: {
        "WALLET_KAFKA_PARTITIONS": "many",
        "WALLET_CHAIN_START_BLOCK": "-1",
        "WALLET_REDIS_URL": "http://redis",
    },
    Role.COMMAND: {
        "WALLET_KAFKA_BOOTSTRAP_SERVERS": "kafka",
        "WALLET_ACCOUNTS_FINGERPRINT": "5c1b",
        "WALLET_HTTP_ADDRESS": "8080",
    },
    Role.SYNC: {
        "WALLET_CHAIN_CONFIRMATION_DEPTH": "0",
        "WALLET_CHAIN_RPC": "[]",
        "WALLET_TUNING_LOCK_TTL_SECONDS": "1.5",
    },
}


class Trap:
    """A server on a free port that nobody should connect to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def was_called(self) -> bool:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    trap = Trap()
    yield trap
    trap.close()


@pytest.mark.parametrize(
    ("role", "variable", "value"),
    [(role, variable, None) for role, variables in MISSING.items() for variable in variables]
    + [(role, variable, value) for role, variables in MALFORMED.items() for variable, value in variables.items()],
)
async def test_a_wrong_setting_ends_the_worker(
    role: Role,
    variable: str,
    value: str | None,
    tmp_path: Path,
    trap: Trap,
    kafka: Kafka,
    redis_server: Redis,
    anvil: Anvil,
) -> None:
    """Exit code 2 and one line that names the variable, before anything connects; the value is not repeated."""
    here = f"127.0.0.1:{trap.port}"
    changes = {
        "spec": {
            "chain": {"rpc": [{"url": f"http://{here}/path", "wsUrl": f"ws://{here}"}]},
            "kafka": {"bootstrapServers": here},
            "redis": {"url": f"redis://{here}/0"},
        }
    }
    async with running_wallet(tmp_path, kafka, redis_server, anvil, changes=changes) as wallet:
        variables = wallet.environment(role, free_port())
        assert variable in variables
        if value is None:
            del variables[variable]
        else:
            variables[variable] = value
        worker = Worker(role, PythonProcess(role, variables, tmp_path / "worker.log"), port=0)
        wallet.workers.append(worker)
        assert await worker.until_exit() == 2
        (line,) = worker.process.log.read_text().splitlines()
        assert line.startswith(f"{variable}: ")
        assert not trap.was_called()


async def test_an_address_that_is_taken_is_no_wrong_setting(
    tmp_path: Path, trap: Trap, kafka: Kafka, redis_server: Redis, anvil: Anvil
) -> None:
    """Whoever runs the worker may start it again, elsewhere or later: exit code 1, and which address it was."""
    async with running_wallet(tmp_path, kafka, redis_server, anvil) as wallet:
        variables = wallet.environment(Role.SYNC, trap.port)
        worker = Worker(Role.SYNC, PythonProcess(Role.SYNC, variables, tmp_path / "worker.log"), port=0)
        wallet.workers.append(worker)
        assert await worker.until_exit() == 1
        (ended,) = worker.logged("ended")
        assert ended["error_code"] == "address_taken"
        assert ended["message"] == f"another process serves on 127.0.0.1:{trap.port}"
