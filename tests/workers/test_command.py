"""The loop of `command`: every message is answered once, whatever it holds, and nothing is answered too early."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from virtual_time import in_virtual_time, until
from wallet_core.accounts import calculate_identity
from wallet_core.addresses import checksum_address, lower_hex
from wallet_core.canonical_json import canonical_object, parse
from wallet_core.commands import ID_SIZE_MAX, META_SIZE_MAX
from wallet_core.errors import KafkaUnreachable
from wallet_core.keys import derive_account_keys
from wallet_core.messages import Topic
from wallet_workers.stopping import HALT_RECHECK_SECONDS
from wallet_world import ACCOUNT_KEY, KEYS, PREFIX, CommandReplica, World

COMMANDS = PREFIX + Topic.COMMAND
OTHER_KEYS = derive_account_keys(b"\x08" * 64, 0)
LONELY_SURROGATE = b"\\ud800"


async def new_world() -> World:
    world = World()
    await world.bootstrap()
    return world


def create_account(command_id: str = "customer-1", **meta: object) -> bytes:
    return json.dumps({"type": "create_account", "id": command_id, "meta": meta}).encode()


def send(world: World, value: bytes | None, **headers: bytes) -> tuple[int, int]:
    return world.broker.produce(COMMANDS, b"customer", value, headers=tuple(headers.items()))


def replies(world: World) -> list[dict[str, Any]]:
    return world.read(Topic.ADDRESS_CREATED)


def errors(world: World) -> list[dict[str, Any]]:
    return world.read(Topic.ERRORS)


@in_virtual_time
async def test_a_command_is_answered_with_its_address() -> None:
    """The reply carries what the key can be found again by, and the caller's meta."""
    world = await new_world()
    replica = CommandReplica(world)
    async with replica.running():
        send(world, create_account("customer-1", shop=7))
        await until(lambda: replies(world))
    meta = parse('{"shop": 7}')
    assert isinstance(meta, dict)
    path = ACCOUNT_KEY.path(calculate_identity("customer-1", canonical_object(meta)))
    address = ACCOUNT_KEY.address(path)
    assert replies(world) == [
        {
            "shop": 7,
            "id": "customer-1",
            "address": checksum_address(address),
            "chain_id": 1337,
            "path": path,
            "fingerprint": KEYS.fingerprint,
            "meta": {"shop": 7},
        }
    ]
    (record,) = [record for n in range(2) for record in world.broker.read_committed(PREFIX + Topic.ADDRESS_CREATED, n)]
    assert record.key == lower_hex(address).encode()
    assert replica.metrics.registry.get_sample_value("wallet_commands_total", {"outcome": "created"}) == 1
    assert errors(world) == []


@in_virtual_time
async def test_the_same_command_gets_the_same_bytes_again() -> None:
    """Sending a command again is always safe."""
    world = await new_world()
    async with CommandReplica(world).running():
        send(world, create_account("customer-1", shop=7))
        await until(lambda: len(replies(world)) == 1)
    async with CommandReplica(world).running():
        send(world, create_account("customer-1", shop=7))
        await until(lambda: len(replies(world)) == 2)
    first, second = replies(world)
    assert first == second


@in_virtual_time
async def test_a_restart_goes_on_behind_what_was_answered() -> None:
    """Consumption is committed with the replies."""
    world = await new_world()
    send(world, create_account("a"))
    async with CommandReplica(world).running():
        await until(lambda: replies(world))
    send(world, create_account("b"))
    async with CommandReplica(world).running():
        await until(lambda: len(replies(world)) == 2)
        await asyncio.sleep(60)
    assert sorted(reply["id"] for reply in replies(world)) == ["a", "b"]


BAD_COMMANDS: dict[str, list[bytes | None]] = {
    "null_value": [None],
    "not_utf8": [b"\xff\xfe", b'{"type": "\xe9"}'],
    "bad_json": [
        b"",
        b"{",
        b"[]",
        b'"create_account"',
        b"null",
        b'{"type": "create_account", "type": "create_account"}',
        b"[" * 5000,
        b"[" * 5000 + b"]" * 5000,
        b'{"type": "create_account", "meta": ' + b"[" * 5000 + b"]" * 5000,
        b"x" * 1_000_000,
    ],
    "unknown_type": [
        b"{}",
        b'{"type": null}',
        b'{"type": 1}',
        b'{"type": "destroy_account", "id": "a"}',
        b'{"type": "' + b"y" * 100_000 + b'"}',
    ],
    "bad_id": [
        b'{"type": "create_account", "id": 5}',
        b'{"type": "create_account", "id": null}',
        b'{"type": "create_account", "id": ""}',
        b'{"type": "create_account", "id": "' + LONELY_SURROGATE + b'"}',
        create_account("x" * (ID_SIZE_MAX + 1)),
    ],
    "bad_meta": [
        b'{"type": "create_account", "id": "a", "meta": []}',
        b'{"type": "create_account", "id": "a", "meta": null}',
        b'{"type": "create_account", "id": "a", "meta": "x"}',
        b'{"type": "create_account", "id": "a", "meta": {"x": NaN}}',
        b'{"type": "create_account", "id": "a", "meta": {"x": 1, "x": 2}}',
        b'{"type": "create_account", "id": "a", "meta": {"x": "' + LONELY_SURROGATE + b'"}}',
    ],
    "meta_too_large": [create_account("a", x="y" * META_SIZE_MAX)],
}


@pytest.mark.parametrize("error_code", BAD_COMMANDS)
@in_virtual_time
async def test_a_bad_command_becomes_an_error_event_and_the_next_one_is_served(error_code: str) -> None:
    """Whatever a caller sends, its partition goes on; the event repeats the message and fits into one itself."""
    world = await new_world()
    replica = CommandReplica(world)
    sent = BAD_COMMANDS[error_code]
    places = [send(world, value) for value in sent]
    send(world, create_account("the next one"))
    async with replica.running():
        await until(lambda: replies(world))
    assert [(error["error_code"], error["request"]["offset"]) for error in errors(world)] == [
        (error_code, offset) for _, offset in places
    ]
    for error, value in zip(errors(world), sent, strict=True):
        assert error["error_stack"] is None
        assert error["request"]["size"] == len(value or b"")
        assert error["request"]["topic"] == COMMANDS
        assert error["error_message"]
    sizes = [
        len(record.value or b"") for n in range(2) for record in world.broker.read_committed(PREFIX + Topic.ERRORS, n)
    ]
    assert max(sizes) < 400_000
    count = replica.metrics.registry.get_sample_value("wallet_commands_total", {"outcome": error_code})
    assert count == len(sent)


@in_virtual_time
async def test_ids_that_differ_are_refused() -> None:
    """A command has one identity; the header alone is one."""
    world = await new_world()
    async with CommandReplica(world).running():
        send(world, create_account("a"), ce_id=b"b")
        send(world, b'{"type": "create_account"}', ce_id=b"c")
        await until(lambda: replies(world))
    assert [error["error_code"] for error in errors(world)] == ["id_mismatch"]
    assert [reply["id"] for reply in replies(world)] == ["c"]


@in_virtual_time
async def test_a_fault_of_ours_becomes_an_error_event_without_values() -> None:
    """Where it happened is told, what was in the variables is not, and the next command is served."""
    world = await new_world()
    replica = CommandReplica(world)

    class Cursed(bytes):
        def decode(self, *_: object) -> str:
            raise ZeroDivisionError(f"s3cret {KEYS.xpub}")

    _, offset = send(world, create_account("a"), ce_id=Cursed(b"a"))
    send(world, create_account("b"))
    async with replica.running():
        await until(lambda: replies(world))
    (error,) = errors(world)
    assert (error["error_code"], error["request"]["offset"]) == ("internal_error", offset)
    assert error["error_message"] == "unexpected ZeroDivisionError"
    assert "wallet_core.accounts" in error["error_stack"]
    told = error["error_message"] + error["error_stack"]
    assert "s3cret" not in told
    assert KEYS.xpub not in told
    assert [reply["id"] for reply in replies(world)] == ["b"]


# --- not before its time -------------------------------------------------------------------------------------------


@in_virtual_time
async def test_nothing_is_answered_before_a_checkpoint_exists() -> None:
    """From the checkpoint on every published address is watched; before it, none is."""
    world = World()
    world.broker.create_topic(COMMANDS, 2, {"cleanup.policy": "delete"})
    send(world, create_account())
    replica = CommandReplica(world)
    async with replica.running():
        await until(lambda: "checkpoint" in str(replica.shown.get("waiting_for")))
        await asyncio.sleep(3600)
        assert not world.broker.committed_offset("wallets.mainnet", COMMANDS, 0)
        await world.bootstrap()
        await until(lambda: replies(world))
        assert "waiting_for" not in replica.shown
        assert replica.shown["reason"] == "Working"
        assert replica.shown["partitions"] == [0, 1]


@in_virtual_time
async def test_a_broker_that_is_away_at_the_start_is_waited_for() -> None:
    """The reason is in `/status`, an alert counts the tries, and the worker goes on by itself."""
    world = await new_world()
    world.broker.reachable = False
    replica = CommandReplica(world)
    async with replica.running():
        await until(lambda: replica.shown["reason"] == "KafkaUnreachable")
        await asyncio.sleep(3600)
        retries = replica.metrics.registry.get_sample_value("wallet_retries_total", {"error_code": "kafka_unreachable"})
        assert retries is not None
        assert retries > 300
        world.broker.reachable = True
        send(world, create_account())
        await until(lambda: replies(world))
        assert replica.shown["reason"] == "Working"


@in_virtual_time
async def test_a_missing_key_file_is_waited_for() -> None:
    """It names the Secret and goes on a moment after the file is there."""
    world = await new_world()
    send(world, create_account())
    replica = CommandReplica(world, xpub=None)
    async with replica.running():
        await until(lambda: replica.shown["reason"] == "SecretMissing")
        assert replica.shown["message"] == "SecretMissing accounts/xpub"
        await asyncio.sleep(3600)
        assert replies(world) == []
        replica.xpub.content = KEYS.xpub
        before = asyncio.get_running_loop().time()
        await until(lambda: replies(world))
        assert asyncio.get_running_loop().time() - before < 5
        assert replica.shown["reason"] == "Working"


@pytest.mark.parametrize("wrong", [OTHER_KEYS.xpub, KEYS.xprv, "nonsense"], ids=["another", "private", "nonsense"])
@in_virtual_time
async def test_a_wrong_key_halts_until_the_right_one_is_there(wrong: str) -> None:
    """No address of a key that the wallet does not own is ever given out, and no part of the key is shown."""
    world = await new_world()
    send(world, create_account())
    replica = CommandReplica(world, xpub=wrong)
    async with replica.running():
        await until(lambda: replica.shown["reason"] == "Halted")
        assert "KeyMismatch" in str(replica.shown["message"])
        assert wrong not in str(replica.shown)
        await asyncio.sleep(10 * HALT_RECHECK_SECONDS)
        assert (replies(world), errors(world)) == ([], [])
        replica.xpub.content = KEYS.xpub
        before = asyncio.get_running_loop().time()
        await until(lambda: replies(world))
        assert asyncio.get_running_loop().time() - before <= HALT_RECHECK_SECONDS + 5


@pytest.mark.parametrize("waits_for", ["key", "checkpoint", "commands"])
@in_virtual_time
async def test_a_stop_ends_it_wherever_it_waits(waits_for: str) -> None:
    """SIGTERM drains within seconds."""
    world = World()
    if waits_for == "commands":
        await world.bootstrap()
    replica = CommandReplica(world, xpub=None if waits_for == "key" else KEYS.xpub)
    async with replica.running() as task:
        await asyncio.sleep(100)
        replica.stopping.request()
        before = asyncio.get_running_loop().time()
        await task
        assert asyncio.get_running_loop().time() - before <= 2


# --- the process must end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost_at", ["send", "commit", "committed"])
@in_virtual_time
async def test_a_failed_commit_ends_the_process_and_its_successor_answers_once(lost_at: str) -> None:
    """Half an assignment cannot be mended in place; whatever became of the commit, every reply is there once."""
    world = await new_world()

    async def before(step: str) -> None:
        if step == lost_at:
            raise KafkaUnreachable("the answer was lost")

    send(world, create_account("a"))
    send(world, b"nonsense")
    async with CommandReplica(world, before=before).running() as task:
        with pytest.raises(KafkaUnreachable):
            await task
    async with CommandReplica(world).running():
        await until(lambda: replies(world) and errors(world))
        await asyncio.sleep(60)
    assert [reply["id"] for reply in replies(world)] == ["a"]
    assert [error["error_code"] for error in errors(world)] == ["bad_json"]


@in_virtual_time
async def test_two_replicas_share_the_partitions() -> None:
    """Each message is answered by one of them, also while partitions change hands."""
    world = await new_world()
    first, second = CommandReplica(world), CommandReplica(world)
    async with first.running():
        send(world, create_account("0"))
        await until(lambda: replies(world))
        async with second.running():
            await until(lambda: first.shown["partitions"] and second.shown.get("partitions"))
            for n in range(1, 50):
                world.broker.produce(COMMANDS, str(n).encode(), create_account(str(n)))
                await asyncio.sleep(0.3)
            await until(lambda: len(replies(world)) >= 50)
    assert sorted(int(reply["id"]) for reply in replies(world)) == list(range(50))
