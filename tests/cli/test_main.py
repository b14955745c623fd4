"""`walletctl` as a whole: one line for what goes wrong, and an exit code that says of what kind it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wallet_cli.exit_codes import MEANINGS
from wallet_cli.main import app, main
from wallet_cli.running import RunFile

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/walletmanager-local.yaml"
NOBODY = "127.0.0.1:1"


def _run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def unreachable(tmp_path: Path) -> Path:
    """A wallet whose Kafka is not there."""
    file = tmp_path / "wallet.yaml"
    file.write_text(EXAMPLE.read_text().replace("127.0.0.1:19092", NOBODY))
    return file


def test_the_help_lists_the_exit_codes() -> None:
    """Whoever writes a script need not look further."""
    code, out, _ = _run("--help")
    assert code == 0
    told = " ".join(out.split())
    assert all(f"{number} {meaning}" in told for number, meaning in MEANINGS.items())


@pytest.mark.parametrize("command", ["run", "status", "watch", "audit", "version", "keys", "account"])
def test_every_command_is_there(command: str) -> None:
    """And says what it does, in one line."""
    code, out, _ = _run(command, "--help")
    assert code == 0
    assert "Usage: " in out


def test_version() -> None:
    """A program can read it."""
    code, out, _ = _run("version", "-o", "json")
    assert code == 0
    assert '"walletctl"' in out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "line"),
    [
        (["watch", "-f", "none.yaml"], 2, "none.yaml: cannot be read: No such file or directory"),
        (["run", "-f", "none.yaml"], 2, "none.yaml: cannot be read: No such file or directory"),
        (["watch", "-f", str(EXAMPLE), "--address", "0x1"], 2, "--address: an address is 0x and 40 hex digits"),
        (["account", "create", "-f", str(EXAMPLE), "--id", ""], 2, "id has 0 bytes of UTF-8; 1 to 256 are allowed"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: list[str], exit_code: int, line: str) -> None:
    """It names what is wrong, and nothing is connected to before."""
    assert _run(*arguments) == (exit_code, "", f"error: {line}\n")


@pytest.mark.parametrize("arguments", [["watch"], ["account", "create"], ["account", "create", "--wait"], ["audit"]])
def test_without_kafka_there_is_a_line_and_a_remedy(unreachable: Path, arguments: list[str]) -> None:
    """Whatever was asked for, the server that does not answer is named, with exit code 3."""
    code, out, err = _run(*arguments, "-f", unreachable)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: connecting to {NOBODY}: ")
    assert err.endswith("; is Kafka up, and does spec.kafka.bootstrapServers name it?\n")
    assert err.count("\n") == 1


def test_status_without_a_wallet_says_how_to_start_one(tmp_path: Path) -> None:
    """No is an answer: exit code 1. A wait for it has an end: 4."""
    line = f"error: no wallet runs here ({tmp_path}): start it with `walletctl run -f FILE`\n"
    assert _run("status", "--run-dir", tmp_path) == (1, "", line)
    assert _run("status", "--run-dir", tmp_path, "--wait", "--timeout", "0") == (4, "", line)


def test_status_of_workers_that_do_not_work_is_a_no(tmp_path: Path) -> None:
    """The table comes all the same."""
    RunFile.claim(tmp_path, "default.local", EXAMPLE)
    code, out, err = _run("status", "--run-dir", tmp_path, "-o", "json")
    assert (code, err) == (1, "")
    assert '"working": false' in out
    code, _, err = _run("status", "--run-dir", tmp_path, "--wait", "--timeout", "0")
    assert (code, err) == (4, "error: not all workers are Working after 0 s\n")


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    """A wallet that runs here is not started twice."""
    RunFile.claim(tmp_path, "default.local", EXAMPLE)
    code, out, err = _run("run", "-f", EXAMPLE, "--run-dir", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: default.local runs already, supervised by pid {os.getpid()}: ")


def _raising(error: Exception) -> Callable[[], None]:
    def application() -> None:
        raise error

    return application


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (KeyError("s3cret"), 70, "a bug in walletctl (KeyError); `walletctl --debug …` shows where"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1, "/root/x: Permission denied"),
    ],
)
def test_even_a_bug_is_one_line(
    error: Exception, exit_code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It repeats nothing of what was at hand, which may be a secret."""
    with pytest.raises(SystemExit) as ended:
        main(_raising(error))
    assert ended.value.code == exit_code
    assert capsys.readouterr().err == f"error: {line}\n"
