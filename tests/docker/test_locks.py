"""The locks of the images: whole, hashed, and the same versions everywhere."""

import re
import subprocess
import sys
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


@pytest.mark.parametrize("name", LOCKS)
def test_pip_audit_reads_every_lock(name):
    """As `make audit` does, without asking anybody for advisories."""
    lock = DOCKER / "locks" / f"{name}.txt"
    command = [*("-m", "pip_audit", "--dry-run", *AUDIT, "--requirement", str(lock))]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (audited,) = re.findall(r"would have audited (\d+) packages", done.stderr)
    here = [
        text
        for text in re.split(r"\n(?! )", lock.read_text().strip())
        if (marker := Requirement(requirement_of(text)).marker) is None
        or marker.evaluate()
    ]
    assert int(audited) == len(here)


AUDIT = ("--require-hashes", "--no-deps", "--disable-pip")


def requirement_of(text: str) -> str:
    return text.replace("\\\n", " ").partition(" --hash")[0].strip()


def test_pip_audit_refuses_a_lock_without_a_hash(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("click==8.3.1\n")
    command = [sys.executable, "-m", "pip_audit", "--dry-run", *AUDIT, "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "hash" in done.stderr


def test_make_audit_asks_about_every_lock():
    makefile = (DOCKER.parent / "Makefile").read_text()
    (recipe,) = re.findall(r"^audit:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert all(option in recipe for option in (*AUDIT, "docker/locks/"))
    assert all(name in recipe for name in LOCKS)


def test_every_image_holds_a_bill_of_materials_of_its_own_environment():
    text = (DOCKER / "Dockerfile").read_text()
    for target in ("node", "worker", "trainer"):
        (built,) = re.findall(
            rf"^FROM tools AS {target}-build$(.*?)^FROM base AS {target}$",
            text,
            re.MULTILINE | re.DOTALL,
        )
        assert "cyclonedx-py environment" in built
        assert "--output-file /opt/sentinode/sbom.cdx.json" in built
        (image,) = re.findall(
            rf"^FROM base AS {target}$(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL
        )
        assert 'org.sentinode.sbom="/opt/sentinode/sbom.cdx.json"' in image
        assert f"COPY --from={target}-build /opt/sentinode /opt/sentinode" in image


def test_the_base_image_can_be_pinned_by_its_content():
    text = (DOCKER / "Dockerfile").read_text()
    assert "FROM ${PYTHON_IMAGE}${PYTHON_DIGEST} AS base" in text
    assert "PYTHON_DIGEST=@sha256:" in (DOCKER / "README.md").read_text()
