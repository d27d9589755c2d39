"""Render what we send as a reader sees it: `python -m tests.look FOLDER`.

Reports by DCMTK's dsr2html and captures by Orthanc's web viewer, both in headless
Chromium (Debian: chromium, orthanc-webviewer). For eyes, not for the test run: a
browser is slow, and whether a picture is clear is no assertion.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dicom_node.findings import CaseFinding, Document, Selection
from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.report.device import Output
from dicom_node.report.documents import Material, write
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, report_cases
from tests.dicom_objects import gsps_rectangle, mr_slice
from tests.peers import Orthanc
from tests.report_cases import DEVICE, every_case
from tests.validators import dsr2html, written

VIEWER = Path("/usr/share/orthanc/plugins/libOrthancWebViewer.so")
EVERYTHING = replace(DEVICE, outputs=tuple(Output), code_sha256="ab" * 32)
SIZE = "1100,900"


def main(folder: Path) -> None:
    """Write documents of a phantom, their renderings and screenshots below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image = mr_slice()
    (stored,) = dicom_objects.store(folder, [image])
    for name, documents in documents_of(folder, image):
        for number, document in enumerate(documents):
            path = written(document, folder, f"{name.replace(' ', '-')}-{number}")
            if document.kind == "SR":
                page = path.with_suffix(".html")
                dsr2html(path, page)
                screenshot(page.as_uri(), path.with_suffix(".png"))
    look_into_orthanc(folder, [stored.path, *folder.glob("done-*.sc.dcm")])
    sys.stdout.write(f"look at {folder}/*.png\n")


def documents_of(folder, image) -> Iterator[tuple[str, tuple[Document, ...]]]:
    """Every state of a case on an image, with maps."""
    objects = read_study([dicom_objects.stored_instance(image, folder / "0000.dcm")])
    (selection,) = select(objects, read_rois([gsps_rectangle([image])]))
    pixels = read_pixels(selection.path, 1)
    material = Material(read_header(selection.path), pixels, None, None)
    for name, case in every_case(selection).items():
        shown = with_maps(case, selection, pixels.shape)
        yield name, write(shown, material, EVERYTHING)


def with_maps(
    case: CaseFinding, selection: Selection, shape: tuple[int, int]
) -> CaseFinding:
    """The same case with a map for each stage that ran."""
    heat = report_cases.heat(shape, selection.roi.box)
    changed = {
        field: replace(finding, heat=heat, heat_range=(-4.0, 4.0))
        for field, finding in (("sln", case.sln), ("nsln", case.nsln))
        if finding.probability is not None
    }
    return replace(case, **changed)


def look_into_orthanc(folder: Path, paths: list[Path]) -> None:
    """Store images in a PACS and look at every series in its viewer."""
    with tempfile.TemporaryDirectory() as data:
        pacs = Orthanc(Path(data), 11112, plugins=[VIEWER]).start()
        try:
            for path in paths:
                post(f"http://127.0.0.1:{pacs.http}/instances", path.read_bytes())
            for series in pacs.get("/series?expand"):
                modality = series["MainDicomTags"]["Modality"]
                url = f"http://127.0.0.1:{pacs.http}/web-viewer/app/viewer.html"
                shot = folder / f"viewer-{modality}-{series['ID'][:4]}.png"
                screenshot(f"{url}?series={series['ID']}", shot)
        finally:
            pacs.stop()


def post(url: str, content: bytes) -> object:
    """Store one object over Orthanc's REST interface."""
    request = urllib.request.Request(url, data=content, method="POST")  # noqa: S310 - ours
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - ours
        return json.load(answer)


def screenshot(url: str, target: Path) -> None:
    """Look at a page with a browser that knows nothing and calls nobody."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                "--hide-scrollbars",
                "--virtual-time-budget=8000",
                f"--user-data-dir={profile}",
                f"--window-size={SIZE}",
                f"--screenshot={target}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
