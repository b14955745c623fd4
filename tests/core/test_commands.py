"""Commands: what is taken, and which error everything else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.commands import ID_SIZE_MAX, META_SIZE_MAX, SUBSTITUTE, WatchAddress, decode_command
from wallet_core.errors import (
    BadAddress,
    BadCommand,
    BadId,
    BadJson,
    BadMeta,
    IdMismatch,
    MetaTooLarge,
    NotUtf8,
    NullValue,
    UnknownType,
    Unreadable,
)


def _command(**fields: Any) -> bytes:
    return json.dumps({"type": "create_account"} | fields).encode()


def test_a_command_gives_its_id_and_canonical_meta() -> None:
    """Order, white space and escapes of meta do not matter; its numbers stay as they were written."""
    value = b' {"meta": {"b": 1.50, "a": "\\u00e9"}, "id": "user-17", "type": "create_account"}\n'
    command = decode_command(value, ())
    assert (command.id, command.meta.text) == ("user-17", '{"a":"é","b":1.50}')


def test_without_meta_it_is_the_empty_object() -> None:
    """Two ways to say nothing are one command."""
    assert decode_command(_command(id="x"), ()) == decode_command(_command(id="x", meta={}), ())


def test_without_an_id_there_is_none() -> None:
    """Such a command is known by its place in the topic."""
    assert decode_command(_command(), ()).id is None


def test_the_id_may_come_as_a_header() -> None:
    """Producers that write CloudEvents have it there; with the same id in the value too it is the same command."""
    by_header = decode_command(_command(), (("ce_id", "é-17".encode()), ("other", None)))
    assert by_header == decode_command(_command(id="é-17"), ())
    assert by_header == decode_command(_command(id="é-17"), (("ce_id", "é-17".encode()),))


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    """A producer may be newer than the wallet, and what nobody reads harms nobody."""
    value = b'{"type": "create_account", "id": "x", "new": {"a": 1, "a": NaN, "b": "\\ud800"}, "newer": [Infinity]}'
    assert decode_command(value, ()) == decode_command(_command(id="x"), ())


@pytest.mark.parametrize("value", [_command(), None, b"nonsense"])
def test_a_header_whose_name_is_not_utf8_is_refused(value: bytes | None) -> None:
    """It may have been meant as the id: nothing is guessed, and it comes before anything wrong with the value."""
    with pytest.raises(Unreadable):
        decode_command(value, (("other", b"x"), (f"ce{SUBSTITUTE}id", b"y")))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, NullValue),
        (b"\xff", NotUtf8),
        (b'{"type": "create_account", "id": "\xed\xa0\x80"}', NotUtf8),
        (b"", BadJson),
        (b"nonsense " * 110_000, BadJson),
        (b"[" * 5_000, BadJson),
        (b'{"type": "create_account", "meta": ' + b'{"a":' * 5_000, BadJson),
        (b"[]", BadJson),
        (b"17", BadJson),
        (b"NaN", BadJson),
        (b'"create_account"', BadJson),
        (b'{"type": "create_account", "id": "a", "id": "a"}', BadJson),
        (b'\xef\xbb\xbf{"type": "create_account"}', BadJson),
        (b"{}", UnknownType),
        (b'{"type": null}', UnknownType),
        (b'{"type": 17}', UnknownType),
        (b'{"type": ["create_account"]}', UnknownType),
        (b'{"type": "Create_Account"}', UnknownType),
        (b'{"type": "watch_address"}', BadAddress),
        (b'{"type": "watch_address", "address": 7}', BadAddress),
        (b'{"type": "watch_address", "address": "0x00"}', BadAddress),
        (b'{"type": "watch_address", "address": "0xDAC17F958D2ee523a2206206994597C13D831ec7"}', BadAddress),
        (b'{"type": "watch_address", "address": "0x00", "meta": 1}', BadMeta),
        (_command(id=None), BadId),
        (_command(id=17), BadId),
        (_command(id=["x"]), BadId),
        (_command(id=""), BadId),
        (_command(id="\ud800"), BadId),
        (_command(id="é" * 129), BadId),
        (b'{"type": "create_account", "id": NaN}', BadId),
        (_command(meta=None), BadMeta),
        (_command(meta=[]), BadMeta),
        (_command(meta="{}"), BadMeta),
        (_command(meta=17), BadMeta),
        (b'{"type": "create_account", "meta": NaN}', BadMeta),
        (b'{"type": "create_account", "meta": {"a": 1, "a": 1}}', BadMeta),
        (b'{"type": "create_account", "meta": {"a": [{"b": 1, "b": 2}]}}', BadMeta),
        (b'{"type": "create_account", "meta": {"a": -Infinity}}', BadMeta),
        (_command(meta={"a": "\udc00"}), BadMeta),
        (_command(meta={"\udc00": "a"}), BadMeta),
        (_command(meta={"a": "x" * META_SIZE_MAX}), MetaTooLarge),
    ],
)
def test_each_bad_command_has_its_own_error(value: bytes | None, error: type[BadCommand]) -> None:
    """Callers match on the error's code."""
    with pytest.raises(BadCommand) as raised:
        decode_command(value, ())
    assert type(raised.value) is error
    assert 0 < len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ((("ce_id", b"y"),), IdMismatch),
        ((("ce_id", b"x"), ("ce_id", b"y")), IdMismatch),
        ((("ce_id", b"\xff"),), BadId),
        ((("ce_id", b""),), BadId),
        ((("ce_id", None),), BadId),
        ((("ce_id", b"x" * (ID_SIZE_MAX + 1)),), BadId),
    ],
)
def test_a_bad_id_header_is_an_error_too(
    headers: tuple[tuple[str, bytes | None], ...], error: type[BadCommand]
) -> None:
    """A command has one identity or none."""
    with pytest.raises(BadCommand) as raised:
        decode_command(_command(id="x"), headers)
    assert type(raised.value) is error


@pytest.mark.parametrize("name", ["rewind", "rescan", "\ud800"])
def test_an_unknown_type_is_refused_by_name(name: str) -> None:
    """Whoever sent it reads what it was, and what would be taken."""
    with pytest.raises(UnknownType) as raised:
        decode_command(json.dumps({"type": name}).encode(), ())
    assert f'"{name}"' in str(raised.value)
    assert '"create_account"' in str(raised.value)
    assert '"watch_address"' in str(raised.value)


@pytest.mark.parametrize(
    "text", ["0xdAC17F958D2ee523a2206206994597C13D831ec7", "0xdac17f958d2ee523a2206206994597c13d831ec7"]
)
def test_an_address_to_watch_is_taken_in_each_of_its_forms(text: str) -> None:
    """With a checksum or without; what else the command has is read as for an account."""
    command = decode_command(json.dumps({"id": "x", "type": "watch_address", "address": text}).encode(), ())
    assert isinstance(command, WatchAddress)
    assert (command.id, command.meta.text) == ("x", "{}")
    assert command.address == bytes.fromhex("dac17f958d2ee523a2206206994597c13d831ec7")


def test_a_huge_type_does_not_make_a_huge_message() -> None:
    """The error event must fit."""
    with pytest.raises(UnknownType) as raised:
        decode_command(json.dumps({"type": "x" * 900_000}).encode(), ())
    assert len(str(raised.value)) < 200


def test_the_limits_are_exact() -> None:
    """256 bytes of id and 32 KiB of canonical meta are taken, one more is not, whatever white space is around."""
    assert decode_command(_command(id="é" * 128), ()).id == "é" * 128
    room = META_SIZE_MAX - len('{"a":""}')
    spaced = b'{"type": "create_account",' + b" " * 100_000 + b'"meta": {"a": "' + b"x" * room + b'"}}'
    assert decode_command(spaced, ()).meta.size == META_SIZE_MAX
    with pytest.raises(MetaTooLarge):
        decode_command(_command(meta={"a": "x" * (room + 1)}), ())


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_nothing_but_a_bad_command_is_ever_raised(value: bytes) -> None:
    """Whatever a producer sends, the partition goes on."""
    with pytest.raises(BadCommand):
        decode_command(value, ())
