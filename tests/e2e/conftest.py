"""A whole installation with a real PACS, started for each test that asks for it."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.peers import Orthanc, Sentinode

QUIET = "2"


@pytest.fixture(scope="session")
def multiphase(real_data: Path) -> Path:
    """A real DCE study: six phases, subtractions, MIPs, T2, DWI; no contour."""
    folder = real_data / "breast-dce-mri" / "multiphase-study-d1f3d33d"
    assert len(list(folder.rglob("*.dcm"))) == 143
    return folder


@pytest.fixture(scope="session")
def slabs(real_data: Path) -> Path:
    folder = real_data / "breast-dce-mri" / "annotated-slabs"
    assert folder.is_dir()
    return folder


@pytest.fixture(scope="session")
def contours(real_data: Path) -> list[dict[str, str]]:
    path = real_data / "breast-dce-mri" / "contours.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Dataset], Path]:
    """Return a function that writes a dataset into a folder of its own."""
    folder = tmp_path / "made"
    folder.mkdir()

    def write_one(dataset: Dataset) -> Path:
        path = folder / f"{len(list(folder.iterdir())):03}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write_one


@contextmanager
def running(folder: Path, models: Path) -> Iterator[tuple[Sentinode, Orthanc]]:
    """Run Sentinode and its PACS; Sentinode must stop cleanly."""
    sentinode = Sentinode(folder / "sentinode", models)
    orthanc = Orthanc(folder / "orthanc", sentinode.port)
    sentinode.use(str(orthanc), QUIET)
    orthanc.start()
    try:
        sentinode.start()
        yield sentinode, orthanc
    finally:
        code = sentinode.stop()
        orthanc.stop()
    assert code == 0, sentinode.logs()


@pytest.fixture
def pair(tmp_path: Path, quick_models: Path) -> Iterator[tuple[Sentinode, Orthanc]]:
    with running(tmp_path, quick_models) as both:
        yield both


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, quick_models: Path
) -> Iterator[tuple[Sentinode, Orthanc]]:
    """One installation for all tests that leave it as it was."""
    with running(tmp_path_factory.mktemp("site"), quick_models) as both:
        yield both


@pytest.fixture
def header() -> Callable[[Path], Dataset]:
    return lambda path: dcmread(path, stop_before_pixels=True)
