"""Which wallet a command is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from wallet_cli.running import RunFile
from wallet_cli.wallet_file import find_running, find_wallet, read_wallet
from wallet_core.errors import InvalidSetting

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/walletmanager-local.yaml"
OTHER = "apiVersion: v1\nkind: Secret\nmetadata: {name: accounts}\n"


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _resource(path: Path, name: str) -> Path:
    return _written(path, EXAMPLE.read_text().replace("name: local", f"name: {name}"))


def test_the_wallet_among_other_documents_is_read(tmp_path: Path) -> None:
    """A file may hold the wallet's Secrets too."""
    file = _written(tmp_path / "all.yaml", f"{OTHER}---\n{EXAMPLE.read_text()}\n---\n")
    assert read_wallet(file).qualified_name == "default.local"


@pytest.mark.parametrize("count", [0, 2])
def test_a_file_without_exactly_one_wallet_is_refused(tmp_path: Path, count: int) -> None:
    """Nobody guesses which wallet is meant."""
    file = _written(tmp_path / "w.yaml", "---\n".join([OTHER, *[EXAMPLE.read_text()] * count]))
    with pytest.raises(InvalidSetting, match=f"w.yaml: holds {count} documents of kind WalletManager"):
        read_wallet(file)


@pytest.mark.parametrize("text", ["a: [", "\x00", "when: 2020-13-45"])
def test_what_is_no_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    """A parser's many lines become one, which names the file."""
    with pytest.raises(InvalidSetting, match=r"w.yaml: is no YAML: .+") as raised:
        read_wallet(_written(tmp_path / "w.yaml", text))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A wrong path is said to be one."""
    with pytest.raises(InvalidSetting, match=r"none.yaml: cannot be read: No such file"):
        read_wallet(tmp_path / "none.yaml")


def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path) -> None:
    """The line says where to look: file and field."""
    file = _written(tmp_path / "w.yaml", EXAMPLE.read_text().replace("depth: 3", "depth: 0"))
    with pytest.raises(InvalidSetting, match=r"w.yaml: spec.chain.confirmation.depth: "):
        read_wallet(file)


def test_the_only_running_wallet_needs_no_name(tmp_path: Path) -> None:
    """Beside `walletctl run`, the other commands need no option."""
    file = _resource(tmp_path / "w.yaml", "one")
    RunFile.claim(tmp_path / "run", "default.one", file)
    assert find_wallet(None, tmp_path / "run").qualified_name == "default.one"
    running = find_running(None, tmp_path / "run")
    assert running is not None
    assert running.wallet == "default.one"


def test_without_a_running_wallet_both_ways_are_named(tmp_path: Path) -> None:
    """Who named no wallet learns how to name one, and how to start one."""
    with pytest.raises(InvalidSetting, match=r"give -f FILE .*`walletctl run -f FILE`"):
        find_wallet(None, tmp_path)
    assert find_running(None, tmp_path) is None


def test_several_running_wallets_are_named(tmp_path: Path) -> None:
    """Where two run, the file says which one."""
    files = {name: _resource(tmp_path / f"{name}.yaml", name) for name in ("one", "two")}
    for name, file in files.items():
        RunFile.claim(tmp_path / "run", f"default.{name}", file)
    for find in (find_wallet, find_running):
        with pytest.raises(InvalidSetting, match=r"several run here \(default.one, default.two\): name one by -f FILE"):
            find(None, tmp_path / "run")
    running = find_running(files["two"], tmp_path / "run")
    assert running is not None
    assert running.wallet == "default.two"


def test_a_wallet_that_does_not_run_here_is_none(tmp_path: Path) -> None:
    """Another wallet's workers are never taken for this one's."""
    RunFile.claim(tmp_path, "default.one", EXAMPLE)
    assert find_running(EXAMPLE, tmp_path) is None
