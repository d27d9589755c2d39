"""The image of the listener is built, runs with nothing of root, and answers."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.images import ROOT, Builder, run_read_only
from tests.peers import AET, free_port, wait_until

pytestmark = pytest.mark.e2e

LOCKS = ROOT / "docker" / "locks"
CALLER = "MODALITY"


@pytest.fixture(scope="module")
def builder():
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    assert not missing, f"{missing} is missing: run `make peers`"
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "CI must run as root: it builds an image"
        pytest.skip("building an image without an engine needs root")
    builder = Builder()
    yield builder
    builder.remove()


@pytest.fixture(scope="module")
def image(builder: Builder) -> str:
    builder.make_base()
    return builder.build(
        "node", builder.wheels(LOCKS / "node.txt", LOCKS / "image.txt")
    )


@pytest.fixture(scope="module")
def root(builder: Builder, image: str) -> Path:
    return builder.unpack(image)


def dicom_echo(port: int) -> bool:
    done = subprocess.run(
        ["echoscu", "-aet", CALLER, "-aec", AET, "127.0.0.1", str(port)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def test_the_listener_runs_read_only_as_nobody_and_answers_c_echo(
    builder: Builder, image: str, root: Path, tmp_path: Path
):
    configuration = builder.configuration(image)
    port = free_port()
    extra = {
        "SENTINODE_PORT": port,
        "SENTINODE_HOST": "127.0.0.1",
        "SENTINODE_ALLOW": CALLER,
    }
    os.chown(tmp_path, 10001, 10001)

    def run(*command: str):
        return run_read_only(root, tmp_path, configuration, extra, command)

    upgrade = run("sentinode", "db", "upgrade")
    upgraded, _ = upgrade.communicate(timeout=60)
    listener = run(*configuration["Cmd"])
    try:
        wait_until(lambda: dicom_echo(port), "C-ECHO", 60)
        check = run(*configuration["Healthcheck"]["Test"][1:])
        said, _ = check.communicate(timeout=30)
        written = run("touch", "/opt/sentinode/written", "/tmp/written")  # noqa: S108 - the container's own
        refused, _ = written.communicate(timeout=30)
    finally:
        listener.terminate()
        out, _ = listener.communicate(timeout=30)
    gone = run(*configuration["Healthcheck"]["Test"][1:])
    gone.communicate(timeout=30)

    assert upgrade.returncode == 0, upgraded
    assert check.returncode == 0, said
    assert written.returncode == 1
    assert "'/opt/sentinode/written': Read-only file system" in refused
    assert "'/tmp/written'" not in refused
    assert (tmp_path / "sentinode.db").stat().st_uid == 10001
    assert '"listening"' in out, out
    assert gone.returncode == 1


def test_the_listeners_image_says_what_it_is_and_has_no_torch(
    builder: Builder, image: str, root: Path
):
    configuration = builder.configuration(image)
    labels = configuration["Labels"]
    packages = root / "opt/sentinode/lib/python3.11/site-packages"

    assert configuration["User"] == "10001:10001"
    assert list(configuration["Volumes"]) == ["/var/lib/sentinode"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not list(packages.glob("torch*"))
    assert not list(packages.glob("celery*"))
    assert not list(packages.glob("pip*"))
    assert not (root / "src").exists()
    assert not (root / "opt/tools").exists()


def test_the_bill_of_materials_names_every_locked_package_that_is_installed(
    builder: Builder, image: str, root: Path
):
    path = builder.configuration(image)["Labels"]["org.sentinode.sbom"]
    bill = json.loads((root / path.lstrip("/")).read_text())
    named = {one["name"].lower().replace("_", "-") for one in bill["components"]}
    packages = root / "opt/sentinode/lib/python3.11/site-packages"
    installed = {
        folder.name.split("-")[0].lower().replace("_", "-").replace(".", "-")
        for folder in packages.glob("*.dist-info")
    }

    assert bill["bomFormat"] == "CycloneDX"
    assert {"pydicom", "pynetdicom", "sentinode", "sqlalchemy"} <= named
    assert installed == {name.replace(".", "-") for name in named}
