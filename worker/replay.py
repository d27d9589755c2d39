"""`python -m worker.replay RESULT`: compute a recorded result again; changes nothing.

A process of its own, since the command line carries no torch. What was kept is checked
first: the crop's digest, the crop against the slice, weights and preprocessing of the
models that computed the result, whichever are active now. Then each probability is
computed again on this CPU and compared.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch

from dicom_node import db, kept
from dicom_node.db import Sessions
from dicom_node.errors import (
    ModelIntegrityError,
    NodeError,
    NotFoundError,
    SettingsError,
    StateError,
    UnreadableObjectError,
)
from dicom_node.findings import StageFinding
from dicom_node.images import read_pixels
from dicom_node.settings import load
from dicom_node.shared_spool import spool_of
from dicom_node.spool import Spool
from worker import computation, crops, keeping, models, outcomes, preprocess, weights
from worker.cascade import StageModel, risk_of, score
from worker.case import input_sha256
from worker.crops import Crop
from worker.keeping import KeptRecord
from worker.outcomes import ResultRecord
from worker.settings import WorkerSettings

TOLERANCE: Final = 1e-5
EXACT: Final = "bit-identical"
CLOSE: Final = f"at most {TOLERANCE:g} apart"
CPU: Final = torch.device("cpu")
EXIT_FAILED: Final = 1
EXIT_NOT_FOUND: Final = 3
EXIT_GONE: Final = 4


class GoneError(StateError):
    """Something that is needed is not there any more; the message says what to do."""


@dataclass(frozen=True, slots=True)
class StageReplay:
    """One stage as recorded and as computed again; `criterion` decides `holds`."""

    stage: str
    model: str
    recorded: float
    recomputed: float
    difference: float
    recorded_risk: str | None
    recomputed_risk: str | None
    criterion: str
    why: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """The verdict, what was found right on the way, and what was not."""

    result_id: str
    holds: bool
    checked: tuple[str, ...]
    faults: tuple[str, ...]
    stages: tuple[StageReplay, ...]
    torch_version: str
    cpu: str


@dataclass(frozen=True, slots=True)
class Archive:
    """Where results, kept files and models are; nothing of it is written."""

    sessions: Sessions
    spool: Spool
    models: Path


def replay(result_id: str, archive: Archive) -> Replay:
    """Compute a result again from what was kept of it.

    Raises:
        ResultNotFoundError: There is no such result.
        GoneError: The crop, or a model that computed the result, is not there.
    """
    with archive.sessions() as session:
        result = outcomes.result(session, result_id)
        record = keeping.of(session, result_id)
    crop_sha256 = _kept_crop(archive.spool, result, record)
    checked: list[str] = []
    stages: list[StageReplay] = []
    faults: list[str] = []
    try:
        crop = crops.decode(kept.read_crop(archive.spool, crop_sha256))
        checked.append(f"the crop has SHA-256 {crop_sha256}")
        checked.extend(_check_slice(archive.spool, result, record, crop))
        for finding in result.stages:
            if finding.probability is not None:
                model = _model(finding, archive.models)
                checked.append(f"{finding.model} has the recorded weights and input")
                stages.append(_compute(finding, finding.probability, model, crop))
    except (UnreadableObjectError, ModelIntegrityError) as error:
        faults.append(str(error))
    return Replay(
        result_id=result_id,
        holds=not faults and all(one.holds for one in stages),
        checked=tuple(checked),
        faults=tuple(faults),
        stages=tuple(stages),
        torch_version=torch.__version__,
        cpu=computation.cpu_kind(),
    )


def _kept_crop(spool: Spool, result: ResultRecord, record: KeptRecord | None) -> str:
    """Return the digest of the crop, of which there is a file."""
    sha256 = record.crop_sha256 if record else None
    if record is None or sha256 is None:
        raise GoneError(
            f"no crop was kept with result {result.result_id}, it is of an older "
            "version; `sentinode studies reprocess` makes one that can be replayed"
        )
    if kept.has(spool, kept.crop_path(sha256)):
        return sha256
    if result.superseded_by:
        todo = f"replay the result that superseded it, {result.superseded_by}"
    else:
        todo = "restore the spool from a backup, or `sentinode studies reprocess`"
    when = f"given up at {record.released_at:%F %TZ}" if record.released_at else "gone"
    raise GoneError(f"the crop of result {result.result_id} is {when}; {todo}")


def _check_slice(
    spool: Spool, result: ResultRecord, record: KeptRecord | None, crop: Crop
) -> Iterator[str]:
    """Compare the crop with the slice that was kept, if it still is.

    Raises:
        UnreadableObjectError: They differ, or the record contradicts itself.
    """
    sha256 = record.slice_sha256 if record else ""
    seen = input_sha256(sha256, result.source_frame, result.roi.box)
    if seen != result.input_sha256:
        raise UnreadableObjectError(
            "slice, frame and rectangle as recorded do not give the recorded digest "
            "of the input"
        )
    if not kept.has(spool, kept.slice_path(sha256)):
        yield "the slice is gone: the crop was not compared with it"
        return
    pixels = read_pixels(kept.check_slice(spool, sha256), result.source_frame)
    expected = crops.cut(pixels, result.roi.box)
    if expected.box != crop.box or not np.array_equal(expected.pixels, crop.pixels):
        raise UnreadableObjectError("the stored crop is not that of the kept slice")
    yield f"the crop is that of the slice with SHA-256 {sha256}"


def _model(finding: StageFinding, folder: Path) -> StageModel:
    """Load exactly the model that a finding names.

    Raises:
        GoneError: It is not installed.
        ModelIntegrityError: Its weights or preprocessing are not those recorded.
    """
    name, _, version = str(finding.model).partition("@")
    try:
        model = weights.load_stage(models.folder(folder, name, version), CPU)
    except SettingsError as error:
        raise GoneError(
            f"model {finding.model} is not installed or not whole ({error}); "
            "`sentinode models install` brings it back, it need not be active"
        ) from error
    manifest = model.manifest
    for what, found, recorded in (
        ("weights", manifest.weights_sha256, finding.weights_sha256),
        ("preprocessing", manifest.preprocessing_sha256, finding.preprocessing_sha256),
    ):
        if found != recorded:
            raise ModelIntegrityError(
                f"{what} of {finding.model} have SHA-256 {found}, recorded is "
                f"{recorded}"
            )
    return model


def _compute(
    finding: StageFinding, recorded: float, model: StageModel, crop: Crop
) -> StageReplay:
    torch.set_num_threads(finding.threads or computation.CPU_THREADS)
    x = preprocess.to_input(crop.pixels, crop.box, model.manifest.preprocessing)
    scored = score(model, x)
    probability = scored.probability
    others = _otherwise(finding, computation.describe(x, scored.batch))
    difference = probability - recorded
    threshold = finding.threshold if finding.risk else None  # conditional: no group
    risk = None if threshold is None else risk_of(probability, threshold)
    return StageReplay(
        stage=finding.stage,
        model=str(finding.model),
        recorded=recorded,
        recomputed=probability,
        difference=difference,
        recorded_risk=finding.risk,
        recomputed_risk=risk,
        criterion=CLOSE if others else EXACT,
        why="; ".join(others) or "same kind of CPU, same torch, same threads, batch 1",
        holds=abs(difference) <= TOLERANCE if others else difference == 0,
    )


def _otherwise(finding: StageFinding, here: computation.Computation) -> tuple[str, ...]:
    """Say what differs from the computation that was recorded, in sentences."""
    pairs = {
        "device": (finding.device, "cpu"),
        "CPU": (finding.cpu, here["cpu"]),
        "torch": (finding.torch_version, here["torch_version"]),
        "threads": (finding.threads, here["threads"]),
        "batch": (finding.batch, here["batch"]),
    }
    return tuple(
        f"{name} was {then or 'not recorded'}, is {now}"
        for name, (then, now) in pairs.items()
        if then != now
    )


@click.command()
@click.argument("result_id")
def main(result_id: str) -> None:
    """Print the verdict on one result as JSON; exit 0 when it holds, else 1."""
    try:
        settings = load(WorkerSettings)
        engine = db.connect(settings.database)
        archive = Archive(db.reading(engine), spool_of(settings), settings.models)
        found = replay(result_id, archive)
        engine.dispose()
    except NodeError as error:
        click.echo(f"sentinode: {error}", err=True)
        sys.exit(_exit_code(error))
    click.echo(json.dumps(asdict(found)))
    if not found.holds:
        sys.exit(EXIT_FAILED)


def _exit_code(error: NodeError) -> int:
    if isinstance(error, NotFoundError):
        return EXIT_NOT_FOUND
    return EXIT_GONE if isinstance(error, StateError) else EXIT_FAILED


if __name__ == "__main__":
    main()
