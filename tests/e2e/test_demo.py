"""What `make demo` runs, as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.e2e


def test_the_demo_shows_reports_that_agree_with_sql(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "training", "demo", "--folder", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )

    pictures = sorted((tmp_path / "demo").glob("cam-*.png"))
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every value above agrees between the received SR and SQL" in text
    assert "RESEARCH USE ONLY" in text
    assert "threshold" in text
    assert "demo-resnet18-sln@" in text.replace(" ", "")
    assert len(pictures) >= 3
    for one in pictures:
        with Image.open(one) as picture:
            assert picture.mode == "RGB"
