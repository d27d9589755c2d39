import subprocess
import sys

import pytest

from dicom_node.findings import Stage
from training import lineage, site_key
from training.durable import whole_folder
from training.lineage import Lineage

KILLED = """
import os, signal, sys
from pathlib import Path
from dicom_node.findings import Stage
from training import lineage, site_key
from training.lineage import Lineage
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
{what}
"""
LINEAGE = 'lineage.write(folder, Lineage(stage=Stage.SLN, snapshot_id="0" * 64, '
LINEAGE += "cases=1, positives=1, patients=()))"


def killed_while(what, folder):
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(what=what), folder], check=False
    )
    assert done.returncode == -9


def test_a_killed_publication_leaves_no_lineage_that_blocks_the_next(tmp_path):
    killed_while(LINEAGE, tmp_path)
    assert lineage.read(tmp_path) is None

    known = Lineage(
        stage=Stage.SLN, snapshot_id="0" * 64, cases=1, positives=1, patients=()
    )
    lineage.write(tmp_path, known)
    assert lineage.read(tmp_path) == known


def test_a_killed_first_use_leaves_no_half_of_a_site_key(tmp_path):
    path = tmp_path / "site.key"
    killed_while('site_key.read_or_create(folder / "site.key")', tmp_path)

    key = site_key.read_or_create(path)
    assert len(key) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert site_key.read_or_create(path) == key


def test_a_folder_appears_whole_over_an_empty_one_and_over_what_a_kill_left(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old").touch()
    with whole_folder(out) as draft:
        (draft / "new").touch()
        assert not any(out.iterdir())
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_finished_is_not_there(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "out"):
        raise KeyError
    assert not any(tmp_path.iterdir())
