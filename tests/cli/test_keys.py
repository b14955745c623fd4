"""`walletctl keys`: what it writes, what it refuses, and what it never prints."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mnemonic import Mnemonic
from typer.testing import CliRunner, Result

from wallet_cli.keys import app
from wallet_cli.secret_files import staged
from wallet_core.addresses import checksum_address
from wallet_core.keys import derive_account_keys, parse_account_key

WORDS = "test test test test test test test test test test test junk"
KEYS = derive_account_keys(Mnemonic.to_seed(WORDS), 0)
COLD = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Run the commands in an empty directory, under a umask that would let everybody read."""
    with contextlib.chdir(tmp_path):
        yield tmp_path


@pytest.fixture(autouse=True)
def _open_umask() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


def _run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def _answer(*arguments: str | Path, stdin: str | None = None) -> Any:
    result = _run(*arguments, "-o", "json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _modes(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): f"{stat.S_IMODE(path.stat().st_mode):o}" for path in directory.rglob("*")}


def _contents(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


# --- new ---


def test_new_writes_the_keys_of_the_seed_it_tells(home: Path) -> None:
    """From the words alone everything can be made again; nobody else may read the files."""
    answer = _answer("new", "--seed-file", home / "seed", "--cold-address", COLD.lower(), "--account", "3")
    words = (home / "seed").read_text().strip()
    keys = derive_account_keys(Mnemonic.to_seed(words), 3)
    assert len(words.split()) == 24
    assert answer == {
        "account": 3,
        "fingerprint": keys.fingerprint,
        "gas_address": checksum_address(keys.gas_address),
    }
    assert _contents(home) == {
        "seed": words + "\n",
        ".local/secrets/accounts/xpub": keys.xpub + "\n",
        ".local/secrets/sweeper/xprv": keys.xprv + "\n",
        ".local/secrets/sweeper/coldAddress": COLD + "\n",
    }
    directories = [".local", ".local/secrets", ".local/secrets/accounts", ".local/secrets/sweeper"]
    assert _modes(home) == dict.fromkeys(_contents(home), "600") | dict.fromkeys(directories, "700")


def test_new_shows_the_seed_only_when_asked_and_never_a_private_key(home: Path) -> None:
    """What is printed lands in scroll-backs and logs."""
    shown = _answer("new", "--show-seed", "--secrets", home / "a")
    assert parse_account_key((home / "a/accounts/xpub").read_text().strip())
    assert derive_account_keys(Mnemonic.to_seed(shown["seed"]), 0).fingerprint == shown["fingerprint"]
    result = _run("new", "--seed-file", home / "seed", "--secrets", home / "b")
    assert result.exit_code == 0
    assert not set((home / "seed").read_text().split()) & set(result.output.split())
    assert "xprv" not in result.output
    assert "xprv" not in json.dumps(shown)


def test_new_makes_another_seed_each_time(home: Path) -> None:
    """It would be nobody's secret otherwise."""
    seeds = {_answer("new", "--show-seed", "--secrets", home / str(n))["seed"] for n in range(3)}
    assert len(seeds) == 3


def test_new_makes_no_seed_that_nobody_sees(home: Path) -> None:
    """The wallet could never be restored."""
    result = _run("new")
    assert (result.exit_code, _contents(home)) == (2, {})
    assert "--show-seed" in result.stderr


@pytest.mark.parametrize("place", ["accounts/xpub", "sweeper/xprv", "sweeper/coldAddress"])
def test_new_overwrites_nothing_unasked(home: Path, place: str) -> None:
    """A lost key is lost money: one file that is there stops all."""
    taken = home / ".local/secrets" / place
    taken.parent.mkdir(parents=True)
    taken.write_text("precious")
    result = _run("new", "--seed-file", home / "seed", "--cold-address", COLD)
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(Path(".local/secrets") / place) in result.stderr
    assert "--overwrite" in result.stderr
    assert _contents(home) == {f".local/secrets/{place}": "precious"}


def test_new_overwrites_keys_when_told_but_never_a_seed(home: Path) -> None:
    """Keys come from the seed again; the seed comes from nowhere."""
    first = _answer("new", "--seed-file", home / "seed")
    before = _contents(home)
    result = _run("new", "--seed-file", home / "seed", "--overwrite")
    assert (result.exit_code, result.stdout, _contents(home)) == (1, "", before)
    second = _answer("new", "--seed-file", home / "seed-2", "--overwrite")
    assert first["fingerprint"] != second["fingerprint"]
    assert _answer("check", home / ".local/secrets/accounts/xpub", "--fingerprint", second["fingerprint"])["matches"]
    assert set(_contents(home)) == set(before) | {"seed-2"}
    assert set(_modes(home).values()) == {"600", "700"}


def test_the_seed_file_cannot_be_the_place_of_a_key(home: Path) -> None:
    """The key would win, and the seed be gone."""
    result = _run("new", "--seed-file", ".local/secrets/sweeper/../accounts/xpub")
    assert (result.exit_code, _contents(home)) == (2, {})


@pytest.mark.parametrize("cold", ["0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "cold", ""])
def test_new_refuses_a_cold_address_with_a_typing_error(home: Path, cold: str) -> None:
    """Money goes there and nowhere else."""
    result = _run("new", "--show-seed", "--cold-address", cold)
    assert (result.exit_code, _contents(home)) == (2, {})


def test_new_leaves_nothing_behind_when_it_cannot_finish(home: Path) -> None:
    """A file stands where a directory is needed: no seed, no key, no draft."""
    (home / "secrets").mkdir()
    (home / "secrets/sweeper").write_text("in the way")
    result = _run("new", "--seed-file", home / "seed", "--secrets", home / "secrets")
    assert result.exit_code == 1
    assert "secrets/sweeper" in result.stderr
    assert _contents(home) == {"secrets/sweeper": "in the way"}


# --- the files themselves ---


# --- restore ---


def test_restore_makes_the_same_files_again(home: Path) -> None:
    """From the seed that `new` wrote down come the same keys, byte for byte, with the same fingerprint."""
    told = _answer("new", "--seed-file", "seed.txt", "--secrets", "first", "--cold-address", COLD)
    again = _answer("restore", "seed.txt", "--secrets", "second", "--cold-address", COLD)
    assert again == told
    assert _contents(home / "second") == _contents(home / "first")
    assert set(_modes(home / "second").values()) == {"700", "600"}


def test_restore_takes_no_seed_with_a_wrong_word_and_repeats_none_of_it(home: Path) -> None:
    """A seed whose words fail BIP-39's checksum is a mistake; nothing is written and no word is shown."""
    result = _run("restore", "-", stdin=WORDS.replace("junk", "test"))
    assert result.exit_code == 2
    assert "test test" not in result.output
    assert _contents(home) == {}


def test_files_come_all_together_or_not_at_all(tmp_path: Path) -> None:
    """The last one cannot be put in place: those before it are taken back, a replaced one with its old content."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "c").write_text("in the way")
    contents = {tmp_path / name: "new" for name in "abc"}
    with (
        pytest.raises(FileExistsError),
        staged(contents, replaceable=[tmp_path / "a", tmp_path / "b"]) as put_in_place,
    ):
        put_in_place()
    assert _contents(tmp_path) == {"a": "old", "c": "in the way"}


def test_nothing_is_in_place_before_all_is_written(tmp_path: Path) -> None:
    """Drafts are private, and gone when the caller changes its mind."""
    with staged({tmp_path / "deep/er/a": "secret"}):
        assert not (tmp_path / "deep/er/a").exists()
        assert set(_modes(tmp_path).values()) == {"700", "600"}
    assert _contents(tmp_path) == {}


# --- check ---


@pytest.mark.parametrize("text", [WORDS, "  " + WORDS.replace(" ", "\n") + "\n", KEYS.xpub, KEYS.xprv + "\n"])
def test_check_knows_seed_and_key_files_by_their_fingerprint(home: Path, text: str) -> None:
    """Before a Secret is made from a file, a person knows that it is the right one."""
    file = home / "file"
    file.write_text(text)
    assert _answer("check", file, "--fingerprint", KEYS.fingerprint) == {
        "matches": True,
        "fingerprint": KEYS.fingerprint,
    }
    result = _run("check", file, "--fingerprint", "00" * 20, "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["matches"]) == (1, False)
    assert _answer("check", "-", "--fingerprint", KEYS.fingerprint, stdin=text)["matches"]


def test_check_of_a_seed_depends_on_the_account(home: Path) -> None:
    """Each account of a seed is a wallet of its own."""
    (home / "seed").write_text(WORDS)
    other = derive_account_keys(Mnemonic.to_seed(WORDS), 7)
    assert _answer("check", home / "seed", "--fingerprint", other.fingerprint, "--account", "7")["matches"]
    assert _run("check", home / "seed", "--fingerprint", other.fingerprint).exit_code == 1


@pytest.mark.parametrize(
    "text", ["", WORDS + " junk", WORDS.replace("junk", "test"), KEYS.xprv[:-1], "é", KEYS.xprv[1:]]
)
def test_check_of_what_is_no_key_is_a_mistake_and_repeats_nothing(home: Path, text: str) -> None:
    """Nearly a seed is still a secret."""
    (home / "file").write_text(text)
    result = _run("check", home / "file", "--fingerprint", KEYS.fingerprint)
    assert result.exit_code == 2
    assert not any(word in result.output for word in text.split() if word != "test")
    assert "test test" not in result.output


def test_check_wants_a_file_and_a_whole_fingerprint(home: Path) -> None:
    """Half a fingerprint proves half as much."""
    assert _run("check", home / "missing", "--fingerprint", KEYS.fingerprint).exit_code == 2
    (home / "seed").write_text(WORDS)
    assert _run("check", home / "seed", "--fingerprint", KEYS.fingerprint[:8]).exit_code == 2


# --- derive ---


@pytest.fixture
def xpub(home: Path) -> Path:
    file = home / "xpub"
    file.write_text(KEYS.xpub + "\n")
    return file


def test_derive_gives_the_golden_addresses(xpub: Path) -> None:
    """What the command worker answers, a person can calculate with no network at all."""
    expected = {
        "id": "user-17",
        "address": "0xd71bEB6cDAa1E087EC3fac34853f9fdA0Bb6C424",
        "path": "m/44'/60'/0'/2054554341/269770427/772349261",
        "fingerprint": KEYS.fingerprint,
    }
    meta = '{"user": 17, "desk": "emea"}'
    assert _answer("derive", "--xpub-file", xpub, "--id", "user-17", "--meta-json", meta) == expected
    bare = _answer("derive", "--xpub-file", xpub, "--id", "user-17")
    assert bare["address"] == "0x9EA6863F39549B324672aA3aff5563607C474c01"
    words = _answer("derive", "--xpub-file", xpub, "--id", "x", "--meta", "b=2=3", "--meta", "a=é")
    text = _answer("derive", "--xpub-file", xpub, "--id", "x", "--meta-json", '{"a": "é", "b": "2=3"}')
    assert words == text


def test_derive_finds_a_command_without_id_by_its_place(xpub: Path) -> None:
    """As the topic's tools print it: topic, partition, offset, timestamp and value."""
    place = ["--topic", "mainnet.command", "--partition", "11", "--offset", "123456789", "--timestamp", "1767225600000"]
    answer = _answer("derive", "--xpub-file", xpub, *place, "--value", '{"type":"create_account"}')
    assert answer["id"] is None
    assert answer["address"] == "0x2b3E8f91026a8C86Ab341aa772b538B1cA944e6f"


PLACE = ("--topic", "t", "--partition", "0", "--offset", "0", "--timestamp", "0")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--id", ""),
        ("--id", "x" * 257),
        ("--id", "x", "--meta", "no-equals"),
        ("--id", "x", "--meta", "a=1", "--meta", "a=2"),
        ("--id", "x", "--meta", "a=1", "--meta-json", "{}"),
        ("--id", "x", "--meta-json", "[]"),
        ("--id", "x", "--meta-json", '{}, "id": "y"'),
        ("--id", "x", "--meta-json", '{"a": 1, "a": 2}'),
        ("--id", "x", "--offset", "1"),
        ("--meta", "a=1", *PLACE, "--value", '{"type":"create_account"}'),
        PLACE,
        (*PLACE, "--value", '{"type":"other"}'),
        (*PLACE, "--value", '{"type":"create_account","id":"x"}'),
    ],
)
def test_derive_refuses_what_is_no_command(xpub: Path, options: tuple[str, ...]) -> None:
    """An address that no worker would ever publish must not be shown to anybody."""
    result = _run("derive", "--xpub-file", xpub, *options)
    assert result.exit_code == 2
    assert "0x" not in result.output


def test_derive_does_not_take_a_private_key(xpub: Path) -> None:
    """Nobody should get used to carrying it around."""
    xpub.write_text(KEYS.xprv)
    result = _run("derive", "--xpub-file", xpub, "--id", "x")
    assert result.exit_code == 2
    assert "private" in result.stderr
    assert KEYS.xprv not in result.output


def test_a_table_shows_the_whole_address_where_it_is_piped(xpub: Path) -> None:
    """A broken address is worse than a wide line."""
    result = _run("derive", "--xpub-file", xpub, "--id", "user-17")
    assert "0x9EA6863F39549B324672aA3aff5563607C474c01" in result.stdout
    assert "m/44'/60'/0'/248558142/1869669660/1566327908" in result.stdout
