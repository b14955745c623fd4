"""What the operator accepts: a resource as the API server gives it, checked.

The resource's own rules are `wallet_core.resource`'s. Three more concern the cluster: where images come from, that two
wallets never share one key on one chain (both would report every deposit, and both would sweep), and what the younger
of two such wallets is told. Every refusal is an `InvalidSetting`: one line that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wallet_core.errors import InvalidSetting
from wallet_core.resource import WalletManager, parse_resource
from wallet_operator.kinds import Document, Key


@dataclass(frozen=True)
class Claim:
    """What a wallet holds for itself alone."""

    key: Key
    uid: str
    created_at: str
    """RFC 3339, to the second."""
    chain_id: object
    fingerprint: object

    @property
    def age_order(self) -> tuple[str, str]:
        """Sorts the older first; within one second by uid, so that both sides agree who it is."""
        return self.created_at, self.uid


def claim_of(document: Document) -> Claim:
    """The claim of any resource, also of one that is not valid."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    return Claim(
        key=(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        created_at=metadata.get("creationTimestamp") or "",
        chain_id=(spec.get("chain") or {}).get("id"),
        fingerprint=(spec.get("accounts") or {}).get("fingerprint"),
    )


def check(document: Document, *, allowed_repositories: Sequence[str], others: Iterable[Claim]) -> WalletManager:
    """The wallet that a resource describes. Raises InvalidSetting."""
    wallet = parse_resource(document)
    if wallet.spec.image is not None:
        check_image(wallet.spec.image, allowed_repositories)
    check_key_is_free(claim_of(document), others)
    return wallet


def check_image(image: str, allowed_repositories: Sequence[str]) -> None:
    """Raises InvalidSetting where an image is from none of the repositories."""
    repository = repository_of(image)
    if not any(
        repository.startswith(allowed) if allowed.endswith("/") else repository == allowed
        for allowed in allowed_repositories
    ):
        where = ", ".join(allowed_repositories) or "none"
        raise InvalidSetting(
            "spec.image", f"is from none of the allowed repositories ({where}); see the chart's values"
        )


def repository_of(image: str) -> str:
    """An image's name without tag and digest. A registry's port is part of it."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def check_key_is_free(claim: Claim, others: Iterable[Claim]) -> None:
    """Raises InvalidSetting where an older wallet has the same key on the same chain."""
    for other in others:
        is_same = (other.chain_id, other.fingerprint) == (claim.chain_id, claim.fingerprint)
        if other.uid != claim.uid and is_same and other.age_order < claim.age_order:
            raise InvalidSetting(
                "spec.accounts.fingerprint",
                f"the older wallet {'/'.join(other.key)} has the same key on the same chain, and two would report and "
                "sweep twice; delete one of them",
            )
