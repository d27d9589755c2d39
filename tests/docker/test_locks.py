"""The locks of the images: whole, hashed, and the same versions everywhere."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

DOCKER = Path(__file__).parents[2] / "docker"
LOCKS = ("node", "worker", "trainer", "image")


def entries(name: str) -> dict[tuple[str, str], str]:
    """Return version by name and marker, of a lock or of the constraints."""
    path = DOCKER / "locks" / f"{name}.txt" if name != "constraints" else None
    text = (path or DOCKER / "constraints.txt").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        requirement = Requirement(line.partition(" --hash")[0].strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        found[(requirement.name, str(requirement.marker or ""))] = pin.version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_of_a_lock_has_hashes_and_none_says_where_it_is_from(name):
    text = (DOCKER / "locks" / f"{name}.txt").read_text()
    assert "://" not in text
    for entry in re.split(r"\n(?! )", text.strip()):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


@pytest.mark.parametrize("name", ["node", "worker", "trainer"])
def test_the_locks_have_the_versions_that_the_tests_run_with(name):
    versions: dict[str, set[str]] = {}
    for (one, _), version in entries("constraints").items():
        versions.setdefault(one, set()).add(version)
    for (one, _), version in entries(name).items():
        assert version in versions.get(one, set()), f"{one}: run `make locks`"


def test_what_the_project_asks_for_is_in_the_locks():
    project = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        "node": project["dependencies"] + extras["s3"],
        "worker": project["dependencies"] + extras["s3"] + extras["worker"],
        "trainer": project["dependencies"] + extras["s3"] + extras["training"],
    }
    for name, requirements in wanted.items():
        locked = {one for one, _ in entries(name)}
        asked = {Requirement(text).name for text in requirements} - {"sentinode"}
        missing = asked - locked
        assert not missing, f"run `make locks`: {name} lacks {missing}"


def test_the_listeners_lock_has_neither_torch_nor_a_queue():
    names = {one for one, _ in entries("node")}
    assert not names & {"torch", "torchvision", "celery", "kombu", "redis"}


def test_the_images_read_their_locks_with_hashes_required():
    text = (DOCKER / "Dockerfile").read_text() + (DOCKER / "install-locked").read_text()
    installs = [
        line for line in text.splitlines() if re.search(r"-r \S*(lock|\$)", line)
    ]
    assert installs
    assert all("--require-hashes" in line for line in installs)
