"""What the operator accepts beyond the resource's own rules."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from resources import FULL, MINIMAL
from wallet_core.errors import InvalidSetting
from wallet_operator.spec import Claim, check, claim_of, repository_of

KEY = "5c" * 20


def claim(name: str, created_at: str = "2026-01-01T00:00:00Z", *, chain: int = 1, key: str = KEY) -> Claim:
    return Claim(("wallets", name), f"uid-{name}", created_at, chain, key)


def resource(document: dict[str, Any] = MINIMAL, **metadata: str) -> dict[str, Any]:
    made = copy.deepcopy(document)
    made["metadata"] |= {
        "namespace": "wallets",
        "uid": f"uid-{made['metadata']['name']}",
        "creationTimestamp": "2026-01-02T00:00:00Z",
        **metadata,
    }
    return made


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("workers", "workers"),
        ("workers:v1", "workers"),
        ("ghcr.io/a/workers@sha256:" + "0" * 64, "ghcr.io/a/workers"),
        ("localhost:5000/workers", "localhost:5000/workers"),
        ("localhost:5000/workers:v1@sha256:" + "0" * 64, "localhost:5000/workers"),
    ],
)
def test_a_repository_is_the_image_without_tag_and_digest(image: str, repository: str) -> None:
    """A registry's port belongs to it."""
    assert repository_of(image) == repository


@pytest.mark.parametrize(
    ("allowed", "accepted"),
    [
        ((), False),
        (("registry.example:5000/wallet/workers",), True),
        (("registry.example:5000/wallet/",), True),
        (("registry.example:5000/wallet",), False),
        (("registry.example:5000/wallet/work",), False),
        (("other/workers", "registry.example:5000/"), True),
    ],
)
def test_an_image_comes_from_an_allowed_repository_only(allowed: tuple[str, ...], accepted: bool) -> None:
    """Who may write a resource could otherwise run any program beside the wallet's keys."""
    if accepted:
        assert check(resource(FULL), allowed_repositories=allowed, others=()).spec.image
    else:
        with pytest.raises(InvalidSetting, match=r"^spec.image: is from none of the allowed repositories"):
            check(resource(FULL), allowed_repositories=allowed, others=())


def test_no_image_needs_no_repository() -> None:
    """The operator's own choice is always fine."""
    assert check(resource(), allowed_repositories=(), others=()).spec.image is None


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        (claim("older"), True),
        (claim("younger", "2026-01-03T00:00:00Z"), False),
        (claim("another-chain", chain=2), False),
        (claim("another-key", key="5d" * 20), False),
        (claim("mainnet"), False),
        (claim("a", "2026-01-02T00:00:00Z"), True),
        (claim("z", "2026-01-02T00:00:00Z"), False),
    ],
)
def test_the_younger_of_two_wallets_with_one_key_on_one_chain_is_refused(other: Claim, refused: bool) -> None:
    """Both would report each deposit, and both would sweep. Made in the same second, exactly one of them is refused."""
    if refused:
        with pytest.raises(
            InvalidSetting, match=f"^spec.accounts.fingerprint: the older wallet wallets/{other.key[1]} "
        ):
            check(resource(), allowed_repositories=(), others=[other])
    else:
        check(resource(), allowed_repositories=(), others=[other])


def test_a_resource_that_is_not_valid_still_has_a_claim() -> None:
    """An older wallet with a mistake in its spec goes on running, so its key is taken."""
    broken = resource()
    broken["spec"]["chain"]["confirmation"] = {"depth": 0}
    assert claim_of(broken) == claim("mainnet", "2026-01-02T00:00:00Z")
    assert claim_of({**broken, "spec": None}).fingerprint is None


def test_a_fault_names_its_field() -> None:
    """It becomes the condition's message."""
    broken = resource()
    broken["spec"]["chain"]["confirmation"] = {"depth": 0}
    with pytest.raises(InvalidSetting, match=r"^spec.chain.confirmation.depth: "):
        check(broken, allowed_repositories=(), others=())
