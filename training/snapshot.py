"""A frozen cohort: the same rows and pixels for ever, under the hash of both.

    snapshot.json   id, when and from what, exclusions and why, digest of every file
    cohort.csv      the rows
    crops.npz       crops (n, 70, 70) float32 in [0, 1], sides (n, 2) in mm
    slices/         the marked slices, for whoever measures original pixels; of their
                    headers only what `training.deidentify` has on its list

The id is the SHA-256 of the sorted rows with the digests of their pixels, so a cohort
folder and the snapshot of it have the same one. Training reads snapshots only.
"""

import csv
import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from dicom_node.errors import SettingsError, UnreadableObjectError
from training import cohort, stage_one
from training.cohort import CohortRow, Look
from training.datasets import LabelledCrops
from training.deidentify import KEPT_DEVICE, KEPT_UIDS, Identity, marked_slice
from training.durable import whole_folder
from training.layout import COHORT_NAME, DESCRIPTION_NAME
from training.row import COLUMNS, cells
from training.stage_one import StageOne

SNAPSHOT_NAME: Final = "snapshot.json"
CROPS_NAME: Final = "crops.npz"
SLICES_NAME: Final = "slices"
FORMAT: Final = 1
PLACE: Final = frozenset({"image", "frame"})
"""Columns that say where pixels lie; which pixels these are, their digest says."""

NEOADJUVANT: Final = "neoadjuvant_therapy"

Tick = Callable[[], None]


class Exclusion(BaseModel):
    """A case that was looked at and is not in the cohort; `reason` is a code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows, their crops in the same order, and what the cohort is.

    `folder` is where the images of the rows are, for whoever reads original pixels.
    `sources` says what it was made from: the database's time, the results.
    `stage_one` is what the live stage I said of the cases, where it did.
    """

    id: str
    rows: tuple[CohortRow, ...]
    crops: LabelledCrops
    description: str
    exclusions: tuple[Exclusion, ...]
    folder: Path
    synthetic: bool = False
    created_at: str | None = None
    sources: dict[str, Any] = field(default_factory=dict)
    stage_one: Mapping[str, StageOne] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cases(self) -> tuple[dict[str, str], ...]:
        """The rows as text, as an evaluation keeps them."""
        return tuple(cells(row) for row in self.rows)

    def take(self, chosen: Sequence[int]) -> "Snapshot":
        """Return these rows with their crops; the id stays that of the whole."""
        at = torch.tensor(list(chosen), dtype=torch.long)
        sides = None if self.crops.sides is None else self.crops.sides[at]
        part = LabelledCrops(
            self.crops.crops[at], self.crops.sln[at], self.crops.nsln[at], sides
        )
        return replace(self, rows=tuple(self.rows[i] for i in chosen), crops=part)

    def of_role(self, role: str) -> "Snapshot":
        """Return the rows of one role."""
        return self.take([i for i, row in enumerate(self.rows) if row.role == role])


class _Written(BaseModel):
    """`snapshot.json`; `files` has the SHA-256 of every other file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    id: str
    created_at: str
    description: str
    synthetic: bool
    rows: int
    exclusions: tuple[Exclusion, ...]
    sources: dict[str, Any]
    files: dict[str, str]


def load(folder: Path, tick: Tick = lambda: None) -> Snapshot:
    """Read a frozen snapshot, or a cohort folder as its snapshot would be.

    Args:
        folder: Of either kind.
        tick: Called once for each row.

    Raises:
        SettingsError: Something is missing, faulty or, in a frozen snapshot, not what
            it was; the message names the case and the column, or the file.
    """
    if (folder / SNAPSHOT_NAME).exists():
        return _frozen(folder, tick)
    return _raw(folder, tick)


def count(folder: Path) -> int:
    """Return how often `load` will tick, for a progress bar.

    Raises:
        SettingsError: There is no readable table.
    """
    path = folder / COHORT_NAME
    try:
        with path.open("rb") as stream:
            return max(sum(1 for line in stream if line.strip()) - 1, 0)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error


def _raw(folder: Path, tick: Tick) -> Snapshot:
    rows = cohort.read(folder)
    kept = [row for row in rows if row.neoadjuvant != "yes"]
    exclusions = tuple(
        Exclusion(
            case_id=row.case_id,
            reason=NEOADJUVANT,
            detail="treated before surgery: its pathology is not that of the MRI",
        )
        for row in rows
        if row.neoadjuvant == "yes"
    )
    return assemble(
        folder,
        kept,
        About(
            cohort.describe(folder), exclusions, (folder / DESCRIPTION_NAME).exists()
        ),
        tick,
    )


@dataclass(frozen=True, slots=True)
class About:
    """What a cohort is, beside its rows."""

    description: str
    exclusions: tuple[Exclusion, ...] = ()
    synthetic: bool = False
    sources: dict[str, Any] = field(default_factory=dict)
    stage_one: Mapping[str, StageOne] = field(default_factory=dict)


def _looks(folder: Path, rows: Sequence[CohortRow], tick: Tick) -> Iterator[Look]:
    for row in rows:
        yield cohort.look(folder, row)
        tick()


def assemble(
    folder: Path,
    rows: Sequence[CohortRow],
    about: About,
    tick: Tick = lambda: None,
    looks: Sequence[Look] = (),
) -> Snapshot:
    """Make a snapshot of rows in memory, from a look at their slices.

    `looks` are those of the rows, where the caller has them already.

    Raises:
        SettingsError: A slice or a rectangle is faulty, or two patients share pixels.
    """
    if not rows:
        why = ", ".join(f"{name} {n}" for name, n in reasons(about.exclusions).items())
        raise SettingsError(
            f"{folder}: no case is left to learn from; excluded: {why or 'none'}"
        )
    found = looks or tuple(_looks(folder, rows, tick))
    seen = tuple(
        row.model_copy(update={"pixel_sha256": one.sha256})
        for row, one in zip(rows, found, strict=True)
    )
    cohort.demand_different(seen, folder / COHORT_NAME)
    return Snapshot(
        id=identify(seen),
        rows=seen,
        crops=cohort.labelled(seen, found),
        description=about.description,
        exclusions=about.exclusions,
        folder=folder,
        synthetic=about.synthetic,
        sources=about.sources,
        stage_one=about.stage_one,
    )


def identify(rows: Sequence[CohortRow]) -> str:
    """Return the id of rows; neither their order nor where their images lie counts."""
    lines = sorted(
        json.dumps(
            {name: cell for name, cell in cells(row).items() if name not in PLACE},
            sort_keys=True,
        )
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def freeze(source: Path | Snapshot, out: Path, tick: Tick = lambda: None) -> Snapshot:
    """Write a snapshot into a new folder, whole or not at all.

    Args:
        source: A cohort folder, or a snapshot in memory whose images are there.
        out: A folder that does not exist yet: a snapshot never changes.
        tick: Called once for each row of a cohort folder.

    Raises:
        FileExistsError: Something is there already.
        SettingsError: See `load`.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: a snapshot is never written over")
    found = source if isinstance(source, Snapshot) else load(source, tick)
    with whole_folder(out) as draft:
        _write(draft, found)
    return load(out)


def _write(draft: Path, found: Snapshot) -> None:
    (draft / SLICES_NAME).mkdir()
    rows = []
    for at, row in enumerate(found.rows, start=1):
        name = Path(SLICES_NAME) / f"{at:05d}.dcm"
        _write_slice(found.folder, row, draft / name)
        rows.append(row.model_copy(update={"image": name, "frame": 1}))
    (draft / COHORT_NAME).write_bytes(table(rows))
    with (draft / CROPS_NAME).open("wb") as stream:
        np.savez(stream, crops=found.crops.crops.numpy(), sides=_sides(found))
    if found.stage_one:
        ids = [row.case_id for row in found.rows if row.case_id in found.stage_one]
        said = [found.stage_one[case_id] for case_id in ids]
        (draft / stage_one.STAGE_ONE_NAME).write_bytes(stage_one.encode(said))
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    written = _Written(
        format=FORMAT,
        id=found.id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        description=found.description,
        synthetic=found.synthetic,
        rows=len(rows),
        exclusions=found.exclusions,
        sources=found.sources,
        files={path.relative_to(draft).as_posix(): _sha256(path) for path in files},
    )
    text = json.dumps(written.model_dump(mode="json"), indent=2, sort_keys=True)
    (draft / SNAPSHOT_NAME).write_text(text + "\n", encoding="utf-8")


def _write_slice(folder: Path, row: CohortRow, path: Path) -> None:
    """Write a marked slice without what identifies a person, and read it again.

    Raises:
        SettingsError: It cannot be written with the same pixels.
    """
    identity = Identity(
        patient_id=row.patient_key[:32],
        uid=lambda uid: uid,  # whoever froze it may look the case up
        day=None,
        options=(KEPT_DEVICE, KEPT_UIDS),
    )
    try:
        image = marked_slice(folder / row.image, row.frame, identity)
    except UnreadableObjectError as error:
        raise SettingsError(f"case {row.case_id}: image: {error}") from error
    image.save_as(path, enforce_file_format=True)
    again = cohort.look(path.parent, row.model_copy(update=_first(path)))
    if again.sha256 != row.pixel_sha256:
        raise SettingsError(
            f"case {row.case_id}: image: its pixels cannot be kept as they are"
        )


def _first(path: Path) -> dict[str, Any]:
    return {"image": Path(path.name), "frame": 1}


def _sides(found: Snapshot) -> "np.ndarray[Any, np.dtype[np.float32]]":
    sides = found.crops.sides
    return np.empty((0, 2), np.float32) if sides is None else sides.numpy()


def table(rows: Sequence[CohortRow]) -> bytes:
    """Write rows as `cohort.csv`."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells(row) for row in rows)
    return stream.getvalue().encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _frozen(folder: Path, tick: Tick) -> Snapshot:
    written = _described(folder)
    for name, expected in written.files.items():
        _demand_unchanged(folder, name, expected)
        if name.startswith(SLICES_NAME):
            tick()
    rows = tuple(cohort.read(folder))
    found = identify(rows)
    if found != written.id:
        raise _changed(
            folder, SNAPSHOT_NAME, f"it names {written.id}, the rows {found}"
        )
    pictures, sides = _arrays(folder, len(rows))
    return Snapshot(
        id=written.id,
        rows=rows,
        crops=LabelledCrops(
            pictures,
            torch.tensor([row.sln for row in rows]),
            torch.tensor([row.nsln for row in rows]),
            sides,
        ),
        description=written.description,
        exclusions=written.exclusions,
        folder=folder,
        synthetic=written.synthetic,
        created_at=written.created_at,
        sources=written.sources,
        stage_one=stage_one.read(folder),
    )


def _described(folder: Path) -> _Written:
    path = folder / SNAPSHOT_NAME
    try:
        written = _Written.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise SettingsError(
            f"{path} is not the description of a snapshot: {where}: {fault['msg']}; a "
            "newer Sentinode may have written it"
        ) from error
    if written.format != FORMAT:
        raise SettingsError(
            f"{path} has format {written.format}, and this Sentinode reads {FORMAT}"
        )
    return written


def _demand_unchanged(folder: Path, name: str, expected: str) -> None:
    try:
        found = _sha256(folder / name)
    except OSError as error:
        raise _changed(folder, name, str(error.strerror)) from error
    if found != expected:
        raise _changed(folder, name, f"SHA-256 {found}, frozen was {expected}")


def _changed(folder: Path, name: str, why: str) -> SettingsError:
    return SettingsError(
        f"snapshot {folder}: {name} is not what was frozen ({why}); restore it from a "
        "backup, or freeze the cohort again under another name"
    )


def _arrays(folder: Path, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    path = folder / CROPS_NAME
    try:
        with np.load(path, allow_pickle=False) as arrays:
            crops, sides = arrays["crops"], arrays["sides"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SettingsError(f"{path} is not a file of crops: {error}") from error
    if crops.dtype != np.float32 or len(crops) != n or len(sides) != n:
        raise SettingsError(f"{path} holds {len(crops)} crops for {n} rows")
    return torch.from_numpy(crops), torch.from_numpy(sides)


def reasons(exclusions: Sequence[Exclusion]) -> dict[str, int]:
    """Count exclusions by reason, in a fixed order."""
    return dict(sorted(Counter(one.reason for one in exclusions).items()))
