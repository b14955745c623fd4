"""Keys of Kubernetes Secrets as files `<secrets directory>/<name>/<key>`: mounted in a cluster, local ones likewise."""

from __future__ import annotations

from pathlib import Path

from wallet_core.errors import SecretMissing
from wallet_core.resource import SecretSource


class SecretKeyFile:
    """One key of one Secret."""

    def __init__(self, directory: Path, source: SecretSource) -> None:
        reference = source.secret_key_ref
        self._path = directory / reference.name / reference.key
        self._label = f"{reference.name}/{reference.key}"

    def read(self) -> str:
        """The content without surrounding white space. Raises SecretMissing `<name>/<key>`."""
        try:
            content = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise SecretMissing(self._label) from None  # the cause could quote the content
        if not content:
            raise SecretMissing(self._label)
        return content
