"""Files that only their owner may read, written all together or not at all.

Each file is made whole under another name, mode 600 from its first byte, and flushed to the disk; only then are all of
them put in place. A failure on the way takes back what was done. Nothing that exists is replaced unless the caller says
so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


@contextmanager
def staged(contents: Mapping[Path, str], *, replaceable: Collection[Path] = ()) -> Iterator[Callable[[], None]]:
    """Write the files beside their places; the yielded function puts them there, in their order.

    It raises FileExistsError where one exists that is not `replaceable`. Both raise whatever OSError the disk gives.
    """
    with ExitStack() as leftovers:
        drafts = {path: _draft(path, content, leftovers) for path, content in contents.items()}

        def put_in_place() -> None:
            with ExitStack() as undo:
                for path, draft in drafts.items():
                    if path in replaceable and path.exists():
                        kept = _hidden_beside(path)
                        path.rename(kept)
                        undo.callback(kept.rename, path)
                        leftovers.callback(kept.unlink, missing_ok=True)
                    path.hardlink_to(draft)  # unlike a rename, refuses where the path exists
                    undo.callback(path.unlink)
                undo.pop_all()
            for directory in {path.parent for path in drafts}:
                _flush_directory(directory)

        yield put_in_place


def _draft(path: Path, content: str, leftovers: ExitStack) -> Path:
    _make_directory(path.parent)
    draft = _hidden_beside(path)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    leftovers.callback(draft.unlink, missing_ok=True)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return draft


def _hidden_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _make_directory(directory: Path) -> None:
    # Path.mkdir gives its mode to the last directory only, and those above would be open to all.
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
