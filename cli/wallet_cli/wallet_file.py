"""Which wallet a command is about: the one that `-f` names, else the only one that `walletctl run` runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from wallet_cli.running import RunningWallet, running_wallets
from wallet_core.errors import InvalidSetting
from wallet_core.resource import KIND, WalletManager, parse_resource

FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="YAML file with the WalletManager resource; else the one wallet that runs here."),
]
RunDirectoryOption = Annotated[Path, typer.Option("--run-dir", help="Where `walletctl run` lists what it runs.")]

_WAYS = "give -f FILE with its WalletManager resource, or start it with `walletctl run -f FILE`"


def read_wallet(file: Path) -> WalletManager:
    """The one WalletManager of a YAML file, which may hold other documents too. Raises InvalidSetting."""
    try:
        documents = list(yaml.safe_load_all(file.read_bytes()))
    except OSError as error:
        raise InvalidSetting(str(file), f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidSetting(str(file), "is no YAML: " + " ".join(str(error).split())) from None
    wallets = [document for document in documents if isinstance(document, dict) and document.get("kind") == KIND]
    if len(wallets) != 1:
        raise InvalidSetting(str(file), f"holds {len(wallets)} documents of kind {KIND}: exactly one is needed")
    try:
        return parse_resource(wallets[0])
    except InvalidSetting as error:
        raise InvalidSetting(f"{file}: {error.setting}", error.problem) from None


def find_wallet(file: Path | None, run_directory: Path) -> WalletManager:
    """The wallet that is meant. Raises InvalidSetting, which names the ways to name one."""
    if file is not None:
        return read_wallet(file)
    return read_wallet(Path(_only(running_wallets(run_directory), run_directory).resource))


def find_running(file: Path | None, run_directory: Path) -> RunningWallet | None:
    """The wallet that is meant, as it runs here; None where it does not. Raises InvalidSetting."""
    running = running_wallets(run_directory)
    if file is None:
        return _only(running, run_directory) if running else None
    name = read_wallet(file).qualified_name
    return next((each for each in running if each.wallet == name), None)


def _only(running: list[RunningWallet], run_directory: Path) -> RunningWallet:
    if not running:
        raise InvalidSetting("wallet", f"none is named, and none runs here ({run_directory}): {_WAYS}")
    if len(running) > 1:
        names = ", ".join(each.wallet for each in running)
        raise InvalidSetting("wallet", f"several run here ({names}): name one by -f FILE, its WalletManager resource")
    return running[0]
