"""`python -m training demo`: the whole system at work on phantoms.

    MODALITY --C-STORE--> DEMO_PACS --auto-routes--> SENTINODE --SR, SC--> DEMO_PACS

The three run as processes of their own. Every value that is printed was read
twice: from the report that the PACS received, and from SQL. A disagreement ends the
demo with exit code 1.
"""

import csv
import json
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import SecondaryCaptureImageStorage
from rich.console import Console
from rich.table import Table

from dicom_node.own import is_own
from dicom_node.report.reading import ReportValues, StageValues, read_report
from training.demo_models import ensure_demo_models
from worker.settings import cache_dir

CASES: Final = 3
SEED: Final = 20_260
READY_TIMEOUT_S: Final = 120.0
RESULT_TIMEOUT_S: Final = 90.0
QUIET_PERIOD_S: Final = 2
AET: Final = "SENTINODE"
PACS_AET: Final = "DEMO_PACS"
MODALITY_AET: Final = "MODALITY"


class DemoError(Exception):
    """Something did not happen, or two sources disagree."""


@dataclass(frozen=True, slots=True)
class Stand:
    """The folders and ports of one demo."""

    folder: Path
    port: int
    pacs_port: int
    console: Console

    @property
    def data_dir(self) -> Path:
        """Folder of the installation."""
        return self.folder / "sentinode"

    @property
    def archive(self) -> Path:
        """Folder of the PACS."""
        return self.folder / "pacs"

    @property
    def phantoms(self) -> Path:
        """Folder of the studies that the modality will send."""
        return self.folder / "phantoms"


@dataclass(frozen=True, slots=True)
class Received:
    """A report as the PACS received it."""

    document: Dataset
    values: ReportValues
    at: float


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Work and output; emptied first.",
)
def command(folder: Path) -> None:
    """Show the whole system at work on phantoms, with nothing to configure."""
    console = Console()
    console.rule("Sentinode demo - RESEARCH USE ONLY, nothing here is a diagnosis")
    ensure_demo_models(cache_dir() / "demo-models", console)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stand = Stand(folder.resolve(), _free_port(), _free_port(), console)
    try:
        _run(stand)
    except DemoError as error:
        console.print(f"[bold red]The demo failed:[/] {error}")
        console.print(f"See {stand.data_dir / 'up.log'} and the logs beside it.")
        sys.exit(1)


def _run(stand: Stand) -> None:
    console = stand.console
    console.print(
        "The models learned from phantoms; their numbers say nothing of people."
    )
    console.print("Starting the PACS and Sentinode takes about 20 seconds.")
    _call("-m", "training", "phantom", "--out", str(stand.phantoms),
          "--cases", str(CASES), "--seed", str(SEED), "--level", "easy")  # fmt: skip
    truth = _truth(stand.phantoms)
    with _pacs(stand), _sentinode(stand):
        console.print(f"PACS {PACS_AET} and {AET} are up; the modality sends studies.")
        sent = time.monotonic()
        _call("-m", "worker.cli", "send", *_studies(stand), "--to",
              f"{PACS_AET}@127.0.0.1:{stand.pacs_port}",
              "--aet", MODALITY_AET)  # fmt: skip
        first = {uid: _await_report(stand, uid, set()) for uid in truth}
        for uid, report in first.items():
            _check_and_print(
                stand, uid, report, f"{report.at - sent:.1f} s after sending"
            )
        waiting = [uid for uid, one in first.items() if _is_pending(one)]
        for uid in waiting:
            seen = {str(first[uid].document.SOPInstanceUID)}
            asked = time.monotonic()
            _slnd(stand, uid, truth[uid], first[uid])
            report = _await_report(stand, uid, seen)
            _check_and_print(
                stand, uid, report, f"{report.at - asked:.1f} s after SLND"
            )
        written = _write_captures(stand)
    console.print(
        "Every value above agrees between the received SR and SQL (times are SQL's)."
    )
    console.print("Class activation maps (end of the study's UID, stage):")
    for path in written:
        console.print(f"  {path}")


def _slnd(stand: Stand, uid: str, truth: Mapping[str, str], report: Received) -> None:
    """Play pathology: the phantom's own truth decides."""
    result = "positive" if truth["sln"] == "1" else "negative"
    stand.console.print(
        f"SLND of the phantom is {result}: recorded by `sentinode slnd set`."
    )
    _cli(
        stand, "slnd", "set", "--study", uid, "--side", report.values.laterality,
        "--patient-id", str(report.document.PatientID), "--result", result,
        "--source", "demo: truth of the phantom", "--yes",
    )  # fmt: skip


def _is_pending(report: Received) -> bool:
    return report.values.nsln.status == "pending"


def _check_and_print(stand: Stand, uid: str, report: Received, delay: str) -> None:
    """Compare the report with SQL, then print what both say."""
    newest = json.loads(_cli(stand, "results", "show", uid, "--json"))[0]
    _compare(report.values, newest)
    table = Table(title=f"Study {uid}", title_justify="left", show_header=False)
    table.add_row("side, DCE phase", f"{newest['laterality']}, {newest['phase']}")
    table.add_row("pathway", newest["pathway"])
    for stage in newest["stages"]:
        table.add_row(stage["stage"], _sentence(stage))
    slnd = newest["slnd"]
    table.add_row("SLND", slnd["result"] if slnd else "not recorded yet")
    table.add_row("report at the PACS", delay)
    table.add_row(
        "milliseconds (SQL)",
        ", ".join(
            f"{name} {value:.0f}" for name, value in newest["timings_ms"].items()
        ),
    )
    table.add_row("", "RESEARCH USE ONLY - learned from synthetic phantoms")
    stand.console.print(table)


def _sentence(stage: Mapping[str, Any]) -> str:
    if stage["probability"] is None:
        return f"not run: {stage['status']}"
    return (
        f"probability {stage['probability']:.4f}, threshold {stage['threshold']:.4f}: "
        f"{stage['risk']} risk\n{stage['model']}, weights "
        f"{stage['weights_sha256'][:12]}, {stage['device']}"
    )


def _compare(reported: ReportValues, recorded: Mapping[str, Any]) -> None:
    """Demand that report and database agree.

    Raises:
        DemoError: They do not; the message names the value.
    """
    pairs: list[tuple[str, object, object]] = [
        ("side", reported.laterality, recorded["laterality"]),
        ("phase", reported.phase, recorded["phase"]),
        ("pathway", reported.pathway, recorded["pathway"]),
        ("SLND", reported.slnd, recorded["slnd"] and recorded["slnd"]["result"]),
        ("discordance", reported.discordant, recorded["discordant"]),
    ]
    stages: Sequence[StageValues] = (reported.sln, reported.nsln)
    for one, row in zip(stages, recorded["stages"], strict=True):
        pairs += [
            (f"{row['stage']} {name}", getattr(one, name), row[name])
            for name in ("status", "risk", "weights_sha256", "device")
        ]
        model = one.model_name and f"{one.model_name}@{one.model_version}"
        pairs.append((f"{row['stage']} model", model, row["model"]))
        pairs += [
            (f"{row['stage']} {name}", getattr(one, name), row[name])
            for name in ("probability", "threshold")
        ]
    for name, ours, theirs in pairs:
        if not _equal(ours, theirs):
            raise DemoError(f"{name} is {ours} in the report, {theirs} in SQL")


def _equal(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-9)  # the SR holds percent
    return ours == theirs


def _await_report(stand: Stand, uid: str, seen: set[str]) -> Received:
    """Wait until the PACS has received a report of a study that was not seen."""
    deadline = time.monotonic() + RESULT_TIMEOUT_S
    while time.monotonic() < deadline:
        for document in _archived(stand, "SR"):
            if document.StudyInstanceUID != uid or not is_own(document):
                continue
            if str(document.SOPInstanceUID) not in seen:
                return Received(document, read_report(document), time.monotonic())
        time.sleep(0.2)
    shown = _cli(stand, "studies", "show", uid)
    raise DemoError(f"no report in {RESULT_TIMEOUT_S:.0f} s\n{shown}")


def _archived(stand: Stand, modality: str) -> Iterator[Dataset]:
    for path in stand.archive.glob("*.dcm"):
        try:
            document = dcmread(path)
        except (InvalidDicomError, OSError):
            continue
        if document.Modality == modality:
            yield document


def _write_captures(stand: Stand) -> list[Path]:
    """Write every capture that the PACS received as PNG, named by study and stage."""
    written: list[Path] = []
    for path in sorted(stand.archive.glob("*.dcm")):
        document = dcmread(path)
        if document.SOPClassUID == SecondaryCaptureImageStorage:
            study = str(document.StudyInstanceUID)[-6:]
            stage = "SLN" if document.InstanceNumber == 1 else "NSLN"
            target = stand.folder / f"cam-{study}-{stage}.png"
            Image.fromarray(document.pixel_array).save(target)
            written.append(target)
    if not written:
        raise DemoError("the PACS received no class activation map")
    return written


def _studies(stand: Stand) -> list[str]:
    """Return the folders of the studies; the tables beside them stay at home."""
    return [str(path) for path in sorted(stand.phantoms.iterdir()) if path.is_dir()]


def _truth(phantoms: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the cohort's truth by Study Instance UID."""
    with (phantoms / "truth.csv").open(newline="", encoding="utf-8") as stream:
        return {row["study_uid"]: row for row in csv.DictReader(stream)}


@contextmanager
def _pacs(stand: Stand) -> Iterator[None]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "training.pacs", "--port", str(stand.pacs_port)),
            *("--aet", PACS_AET, "--modality", MODALITY_AET),
            *("--folder", str(stand.archive)),
            *("--route-to", f"{AET}@127.0.0.1:{stand.port}"),
        ]
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=15)


@contextmanager
def _sentinode(stand: Stand) -> Iterator[None]:
    """Run `sentinode up` until the block ends; it must stop cleanly."""
    stand.data_dir.mkdir()
    with (stand.data_dir / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "worker.cli", "up", "--aet", AET),
                *("--data-dir", str(stand.data_dir), "--port", str(stand.port)),
                *("--pacs", f"{PACS_AET}@127.0.0.1:{stand.pacs_port}"),
                *("--quiet-period", str(QUIET_PERIOD_S)),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        if process.stdout is None or not process.stdout.readline().startswith("ready"):
            raise DemoError("`sentinode up` did not become ready")
        yield
    finally:
        process.terminate()
        code = process.wait(timeout=20)
    if code != 0:
        raise DemoError(f"`sentinode up` ended with exit code {code}")


def _cli(stand: Stand, *arguments: str) -> str:
    return _call("-m", "worker.cli", *arguments, "--data-dir", str(stand.data_dir))


def _call(*arguments: str) -> str:
    """Run a Python module and return its standard output."""
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"`{' '.join(arguments[1:4])}` ended with {done.returncode}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
