"""The examples: what people copy must work as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from wallet_cli.wallet_file import read_wallet
from wallet_core.settings import ROLE_SETTINGS, Role, environment, settings_from_environment

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").iterdir())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_wallet_that_each_role_can_read(example: Path) -> None:
    """Each file is one resource, and every role gets settings from it."""
    wallet = read_wallet(example)
    for role in Role:
        settings = settings_from_environment(ROLE_SETTINGS[role], environment(wallet, role))
        assert settings.name == wallet.metadata.name


def test_the_examples_show_what_the_readme_sends_people_there_for() -> None:
    """One for the cluster and one for the machine of one's own; one with tokens, several endpoints and verification."""
    kind, local, mainnet = (read_wallet(path).spec for path in EXAMPLES)
    assert kind.chain.id == local.chain.id != 1
    assert {asset.type for asset in mainnet.assets} == {"native", "erc20"}
    assert 1 < mainnet.chain.quorum < len(mainnet.chain.rpc)
    assert mainnet.chain.verify
