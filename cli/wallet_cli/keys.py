"""`walletctl keys`: make a wallet's seed and keys, check them, and derive addresses. All offline.

The seed is the wallet. Whoever has it has every deposit, and who loses it loses what is not swept: so `new` makes none
that nobody gets to see, and no other command prints a key.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from mnemonic import Mnemonic

from wallet_cli.exit_codes import EXIT_NO, EXIT_USAGE
from wallet_cli.meta import MetaJsonOption, MetaOption, read_meta
from wallet_cli.output import Output, OutputOption, fail, show
from wallet_cli.secret_files import staged
from wallet_core.accounts import AccountKey, Identity, calculate_anonymous_identity, calculate_identity
from wallet_core.addresses import checksum_address, parse_address
from wallet_core.commands import ID_HEADER, decode_command
from wallet_core.errors import InvalidKey, WalletError
from wallet_core.keys import AccountKeys, derive_account_keys, fingerprint_of, parse_account_key

SEED_BITS = 256
"""24 words."""
SECRETS = Path(".local/secrets")
XPUB = Path("accounts/xpub")
"""Place of the account's public key below the secrets, as `<name>/<key>` of the Secret in the cluster."""
XPRV = Path("sweeper/xprv")
COLD_ADDRESS = Path("sweeper/coldAddress")

app = typer.Typer(no_args_is_help=True, help="Make, check and use a wallet's keys. Offline.")

SecretsOption = Annotated[Path, typer.Option(help="Directory of the secrets.")]
ColdAddressOption = Annotated[str | None, typer.Option(help="Cold storage: where sweeps go, and nowhere else.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the keys in the directory of secrets.")]
AccountOption = Annotated[int, typer.Option("--account", help="BIP-44's account number.", min=0, max=2**31 - 1)]


@app.command()
def new(
    *,
    show_seed: Annotated[bool, typer.Option("--show-seed", help="Print the seed's 24 words.")] = False,
    seed_file: Annotated[Path | None, typer.Option(help="Write the seed's 24 words to this new file.")] = None,
    secrets: SecretsOption = SECRETS,
    account: AccountOption = 0,
    cold_address: ColdAddressOption = None,
    overwrite: OverwriteOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a seed, and from it the files accounts/xpub and sweeper/xprv; prints the fingerprint and the gas address."""
    if not show_seed and seed_file is None:
        fail("a seed that nobody sees is lost: add --show-seed or --seed-file FILE", EXIT_USAGE)
    words = Mnemonic("english").generate(SEED_BITS)
    shown = {"seed": words} if show_seed else {}
    _write_keys(words, seed_file, shown, secrets, account, cold_address, overwrite=overwrite, output=output)


@app.command()
def restore(
    seed_file: Annotated[Path, typer.Argument(help="A seed's words; - reads them from stdin.")],
    *,
    secrets: SecretsOption = SECRETS,
    account: AccountOption = 0,
    cold_address: ColdAddressOption = None,
    overwrite: OverwriteOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the same key files again from a seed that was written down; prints the fingerprint and the gas address."""
    try:
        words = _seed_words(_read(seed_file))
    except InvalidKey as error:
        fail(f"{seed_file}: {error}", EXIT_USAGE)
    _write_keys(words, None, {}, secrets, account, cold_address, overwrite=overwrite, output=output)


def _write_keys(
    words: str,
    seed_file: Path | None,
    shown: dict[str, str],
    secrets: Path,
    account: int,
    cold_address: str | None,
    *,
    overwrite: bool,
    output: Output,
) -> None:
    """Write a seed's key files, and the seed itself where asked to, all or none; show what they are."""
    pinned = {} if cold_address is None else {secrets / COLD_ADDRESS: _checksummed(cold_address) + "\n"}
    places = (secrets / XPUB, secrets / XPRV, *pinned)
    if seed_file is not None and seed_file.resolve() in {place.resolve() for place in places}:
        fail(f"--seed-file: {seed_file} is the place of a key", EXIT_USAGE)
    if seed_file is not None and seed_file.exists():
        fail(f"{seed_file} exists: a seed is never overwritten")
    taken = [str(place) for place in places if place.exists()]
    if taken and not overwrite:
        fail(f"{', '.join(taken)} exists: add --overwrite to lose it, or choose another --secrets")
    keys = derive_account_keys(Mnemonic.to_seed(words), account)
    key_files = {secrets / XPUB: keys.xpub + "\n", secrets / XPRV: keys.xprv + "\n"} | pinned
    seed_files = {} if seed_file is None else {seed_file: words + "\n"}
    try:
        # The seed comes first, on the screen and on the disk: a key whose seed nobody has must never exist.
        with staged(seed_files | key_files, replaceable=key_files if overwrite else ()) as put_in_place:
            show(_description(keys) | shown, output)
            put_in_place()
    except OSError as error:
        fail(f"{error.filename2 or error.filename}: {error.strerror}; nothing was written")


def _description(keys: AccountKeys) -> dict[str, object]:
    return {
        "account": keys.account,
        "fingerprint": keys.fingerprint,
        "gas_address": checksum_address(keys.gas_address),
    }


def _checksummed(text: str) -> str:
    try:
        return checksum_address(parse_address(text))
    except ValueError as error:
        fail(f"--cold-address: {error}", EXIT_USAGE)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A seed's words, an xpub or an xprv; - reads them from stdin.")],
    fingerprint: Annotated[str, typer.Option(help="The fingerprint that the resource names.")],
    account: AccountOption = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say whether a seed or key is the one that a fingerprint names: exit code 0 if so, 1 if not, 2 if it is no key."""
    if not re.fullmatch("[0-9a-f]{40}", fingerprint):
        fail("--fingerprint: 40 lower-case hex digits are needed", EXIT_USAGE)
    try:
        found = _fingerprint_in(_read(file), account)
    except InvalidKey as error:
        fail(f"{file}: {error}", EXIT_USAGE)
    show({"matches": found == fingerprint, "fingerprint": found}, output)
    if found != fingerprint:
        raise typer.Exit(EXIT_NO)


def _fingerprint_in(text: str, account: int) -> str:
    words = " ".join(text.split())
    if " " not in words:
        return fingerprint_of(parse_account_key(words))
    return derive_account_keys(Mnemonic.to_seed(_seed_words(words)), account).fingerprint


def _seed_words(text: str) -> str:
    words = " ".join(text.split())
    if not Mnemonic("english").check(words):
        raise InvalidKey("not a seed: a word is unknown, missing or in another's place (BIP-39, English)")
    return words


@app.command()
def derive(
    *,
    xpub_file: Annotated[Path, typer.Option(help="The account's xpub.")] = SECRETS / XPUB,
    command_id: Annotated[str | None, typer.Option("--id", help="The command's id.")] = None,
    meta: MetaOption = None,
    meta_json: MetaJsonOption = None,
    topic: Annotated[str | None, typer.Option(help="Full topic name of a command without id.")] = None,
    partition: Annotated[int | None, typer.Option(help="Its partition.", min=0)] = None,
    offset: Annotated[int | None, typer.Option(help="Its offset.", min=0)] = None,
    timestamp: Annotated[int | None, typer.Option(help="Its timestamp in milliseconds.")] = None,
    value: Annotated[str | None, typer.Option(help="Its value, byte for byte.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Derive the path and address that a command gets: by its id and meta, or without an id by its place in Kafka."""
    text = _read(xpub_file)
    try:
        key = AccountKey.from_xpub(text, _own_fingerprint(text))
        if command_id is not None:
            if any(option is not None for option in (topic, partition, offset, timestamp, value)):
                fail("a command with an id is known by --id and its meta alone", EXIT_USAGE)
            identity = _identity(command_id, meta, meta_json)
        else:
            if meta or meta_json:
                fail("--id is missing: a command without one is known by its whole --value", EXIT_USAGE)
            identity = _anonymous_identity(topic, partition, offset, timestamp, value)
    except WalletError as error:
        fail(str(error), EXIT_USAGE)
    path = key.path(identity)
    address = checksum_address(key.address(path))
    show({"id": command_id, "address": address, "path": path, "fingerprint": key.fingerprint}, output)


def _own_fingerprint(text: str) -> str:
    return fingerprint_of(parse_account_key(text))


def _identity(command_id: str, meta: list[str] | None, meta_json: str | None) -> Identity:
    # By way of a command as it would be sent, so that its limits hold here too.
    value = f'{{"type":"create_account","meta":{read_meta(meta, meta_json).text}}}'
    try:
        command = decode_command(value.encode(), ((ID_HEADER, command_id.encode()),))
    except UnicodeEncodeError:
        raise typer.BadParameter("--id is not UTF-8") from None
    return calculate_identity(command_id, command.meta)


def _anonymous_identity(
    topic: str | None, partition: int | None, offset: int | None, timestamp: int | None, value: str | None
) -> Identity:
    if topic is None or partition is None or offset is None or timestamp is None or value is None:
        fail("give --id, or all of --topic, --partition, --offset, --timestamp and --value", EXIT_USAGE)
    content = value.encode(errors="surrogateescape")
    if decode_command(content, ()).id is not None:
        fail("the command in --value has an id: give it as --id, with its meta", EXIT_USAGE)
    return calculate_anonymous_identity(topic, partition, offset, timestamp, content)


def _read(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()
        return content.decode("ascii").strip()
    except OSError as error:
        fail(f"{file}: {error.strerror}", EXIT_USAGE)
    except UnicodeDecodeError:
        fail(f"{file}: neither a seed nor a key", EXIT_USAGE)
