"""The images: what they are made of decides their tag, and any engine builds them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from kindcluster import images
from kindcluster.images import IMAGES, OPERATOR, REPOSITORY, WORKERS, Image

LOCKED = re.compile(r"^(\S+==\S+)", re.MULTILINE)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what the images are built from."""
    for image in IMAGES:
        for path in images.input_files(image):
            copy = tmp_path / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    return tmp_path


def test_a_tag_depends_on_what_is_built_and_on_nothing_else(repository: Path) -> None:
    """A changed worker is a new image, and only that; the same tree on another machine has the same tags."""
    before = {image.name: images.tag(image, repository=repository) for image in IMAGES}
    assert before == {image.name: images.tag(image) for image in IMAGES}
    assert len(set(before.values())) == len(IMAGES)
    compiled = repository / "core/wallet_core/__pycache__/chain.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    (repository / "workers/wallet_workers/wiring.py").write_text("# another worker\n", encoding="utf-8")
    after = {image.name: images.tag(image, repository=repository) for image in IMAGES}
    assert {name for name in before if before[name] != after[name]} == {WORKERS.name}
    assert images.tag(OPERATOR) != images.tag(OPERATOR, base="another:1")


@pytest.mark.parametrize("image", [OPERATOR, WORKERS], ids=lambda image: image.name)
def test_an_image_holds_the_packages_that_were_tested(image: Image) -> None:
    """What is installed in it is what the lock file pins, hash by hash."""
    text = (REPOSITORY / image.inputs[0]).read_text(encoding="utf-8")
    lock = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    pinned = LOCKED.findall(text)
    assert pinned
    assert set(pinned) <= set(LOCKED.findall(lock))
    assert text.count("--hash=sha256:") >= len(pinned)


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_a_dockerfile_builds_with_any_engine_and_base(image: Image) -> None:
    """Debian's engine has no BuildKit, a host without a registry has a base image of its own; the user is a number."""
    text = (REPOSITORY / image.dockerfile).read_text(encoding="utf-8")
    assert f"ARG BASE={images.PUBLIC_BASE}\n" in text
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert not re.search(r"--mount|<<|^# *syntax=|--link|--chmod", text, re.MULTILINE)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]


@pytest.mark.parametrize("image", [OPERATOR, WORKERS], ids=lambda image: image.name)
def test_whatever_is_copied_into_an_image_decides_its_tag(image: Image) -> None:
    """A file that is copied and not counted would change an image under its tag."""
    text = (REPOSITORY / image.dockerfile).read_text(encoding="utf-8")
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE))
    assert copied == set(image.inputs)
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {f"!{name}" for name in copied} <= set(ignored)


def test_the_dev_stack_names_its_images_by_their_tags() -> None:
    """A cluster that has an older image does not run it unnoticed."""
    named = set()
    for document in yaml.safe_load_all(images.devstack_manifests()):
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        named |= {each["image"] for each in [*pod.get("initContainers", ()), *pod.get("containers", ())]}
    assert named == {images.reference(image) for image in IMAGES if image not in {OPERATOR, WORKERS}}


def test_kafka_and_the_chain_outlive_their_pods() -> None:
    """A pod that is made anew goes on with what the former left: the wallet's memory and its chain."""
    documents = [each for each in yaml.safe_load_all(images.devstack_manifests()) if each["kind"] == "Deployment"]
    for document in documents:
        assert document["spec"]["strategy"] == {"type": "Recreate"}  # two would share one directory
        volumes = {each["name"]: each for each in document["spec"]["template"]["spec"]["volumes"]}
        assert ("hostPath" in volumes["data"]) is (document["metadata"]["name"] in {"kafka", "ganache"})
