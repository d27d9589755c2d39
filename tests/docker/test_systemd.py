"""The systemd units: systemd finds no fault in them, and calls them well confined."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.settings import WorkerSettings

FOLDER = Path(__file__).parents[2] / "docker" / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
MAX_EXPOSURE = 2.0


def analyze(*arguments: object) -> subprocess.CompletedProcess:
    assert shutil.which("systemd-analyze"), "run `make peers`"
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there on every host in place of ours."""
    for path in FOLDER.glob("sentinode*"):
        text = re.sub(r"/opt/sentinode/bin/\w+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    return tmp_path


def test_systemd_finds_no_fault_in_the_units(units):
    found = sorted([*units.glob("*.service"), *units.glob("*.target")])
    done = analyze("verify", *found)
    ours = [line for line in done.stderr.splitlines() if "sentinode" in line]
    assert len(found) == len(UNITS) + 1
    assert done.returncode == 0, done.stderr
    assert not ours


def test_systemd_finds_a_wrong_word(units):
    unit = units / "sentinode-beat.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "NoNewPrivilege" in analyze("verify", unit).stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_confined(units, name, record_property):
    done = analyze("security", "--offline=true", units / name)
    score = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert score, done.stdout + done.stderr
    record_property("exposure", score[1])
    sys.stdout.write(f"{name}: exposure {score[1]} of 10\n")
    assert float(score[1]) <= MAX_EXPOSURE


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_as_nobody_special_with_the_settings_of_the_site(name):
    lines = (FOLDER / name).read_text().splitlines()
    for wanted in (
        *("User=sentinode", "NoNewPrivileges=yes", "ProtectSystem=strict"),
        *("CapabilityBoundingSet=", "EnvironmentFile=/etc/sentinode/sentinode.env"),
        "PartOf=sentinode.target",
    ):
        assert wanted in lines
    assert ("Requires=sentinode-migrate.service" in lines) is ("migrate" not in name)


def test_the_settings_of_the_site_are_settings_and_hold_no_secret():
    fields = {f"SENTINODE_{name.upper()}" for name in WorkerSettings.model_fields}
    lines = (FOLDER / "sentinode.env").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if not line.startswith("#")}
    assert names <= fields
    secret = {one for one in names if "PASSWORD" in one or "SECRET" in one}
    assert all(one.endswith("_FILE") for one in secret)
