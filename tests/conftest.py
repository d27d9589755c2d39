"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real breast MRI; where it is named, it must be there."""
    folder = os.environ.get("SENTINODE_REAL_DATA")
    if not folder:
        pytest.skip("SENTINODE_REAL_DATA does not name a folder of real breast MRI")
    path = Path(folder)
    assert path.is_dir(), f"SENTINODE_REAL_DATA is {path}, which is not a folder"
    return path
