"""Fig. 6: patient instances, chosen by a rule and drawn as the service draws them."""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.errors import NodeError
from dicom_node.findings import Stage
from dicom_node.images import read_header, read_pixels
from dicom_node.report.picture import Scene, grey_levels
from dicom_node.report.picture import draw as draw_scene
from training.report import choice
from training.report.document import Figure, Panel
from training.report.performance import OPERATING, called
from training.scores import INTERNAL, CohortScores, Evaluation, ModelScores
from training.snapshot import Snapshot
from worker import cam
from worker.cascade import StageModel, score
from worker.preprocess import Box, to_input

FIELD: Final = 2.2
"""Sides of the picture, in sides of the rectangle around whose middle it is cut."""

PIXELS: Final = 360
WIDE: Final = 400
"""CSS pixels of both pictures together."""

RULE: Final = (
    "Chosen by rule, not by hand: in each cell of the network's confusion matrix (at "
    "its operating threshold) of one cohort the cases with the highest, the median and "
    "the lowest score; ties go to the smaller case number."
)
CELLS: Final = (
    (1, True, "true positive"),
    (0, True, "false positive"),
    (1, False, "false negative"),
    (0, False, "true negative"),
)


@dataclass(frozen=True, slots=True)
class Instance:
    """A case of the gallery: its cell, its place in it, its evaluated score."""

    case_id: str
    cell: str
    place: str
    probability: float
    label: int


def choose(part: CohortScores, threshold: float) -> list[Instance]:
    """Return up to three cases of each confusion cell, by `RULE`."""
    chosen = []
    rows = zip(
        part.case_ids, part.labels.tolist(), part.probabilities.tolist(), strict=True
    )
    ranked = sorted(rows, key=lambda row: (-row[2], row[0]))
    for label, high, cell in CELLS:
        group = [r for r in ranked if r[1] == label and (r[2] >= threshold) is high]
        places = {0: "highest", len(group) // 2: "median", len(group) - 1: "lowest"}
        for at in sorted(places) if group else ():
            case, truth, chance = group[at]
            chosen.append(Instance(case, cell, places[at], chance, truth))
    return chosen


def gallery(
    evaluation: Evaluation, snapshot: Snapshot | None, loaded: StageModel | None
) -> Figure:
    """Return Fig. 6 of the internal set, or of the first other that there is."""
    key, label = "figure-6", "Fig. 6"
    title = "Patient instances: marked slice and class activation map of ResNet18-I"
    model = choice.reference(evaluation, Stage.SLN)
    why = _missing(model, snapshot, loaded)
    if why or model is None or snapshot is None or loaded is None:
        return Figure(key, label, title, (), notes=(f"Not computable: {why}.", RULE))
    part = _shown(evaluation, model)
    instances = choose(part, OPERATING.at(model)) if part else []
    panels, rows, notes = [], [], [RULE]
    for instance in instances:
        try:
            panel, served = _panel(instance, snapshot, loaded)
        except NodeError as error:
            notes.append(f"{instance.case_id} could not be drawn: {error}")
            continue
        panels.append(panel)
        rows.append(_row(instance, served))
    notes += [
        (
            f"Cohort: {choice.title(part.cohort) if part else 'none'}. Model: "
            f"{called(model)}, {loaded.manifest.reference}, operating threshold "
            f"{OPERATING.at(model):.4f}. Left: the slice, the rectangle outlined. "
            "Right: the map as the service draws it, blue against metastasis and "
            "orange for it, one scale for all."
        ),
        (
            "The map explains the logit: its mean plus the bias is the logit. It shows "
            "where evidence came from, in cells of an eighth of the crop; it is no "
            "segmentation."
        ),
    ]
    header = ("case", "cell", "place", "evaluated score", "score drawn", "SLN")
    return Figure(key, label, title, tuple(panels), header, tuple(rows), tuple(notes))


def _missing(
    model: ModelScores | None, snapshot: Snapshot | None, loaded: StageModel | None
) -> str:
    if model is None:
        return "the evaluation has no network for SLN"
    if snapshot is None:
        return "the pixels are in the snapshot, which was not given (--cohort)"
    if loaded is None:
        return "the maps need the network's weights, which were not given (--models)"
    return ""


def _shown(evaluation: Evaluation, model: ModelScores) -> CohortScores | None:
    part = model.cohort(INTERNAL)
    if part is not None and len(part):
        return part
    parts = [model.cohort(name) for name in reversed(choice.cohorts(evaluation))]
    return next((one for one in parts if one is not None and len(one)), None)


def _row(instance: Instance, served: float) -> tuple[str, ...]:
    scores = (f"{instance.probability:.4f}", f"{served:.4f}")
    return (
        instance.case_id,
        instance.cell,
        instance.place,
        *scores,
        str(instance.label),
    )


def _panel(
    instance: Instance, snapshot: Snapshot, loaded: StageModel
) -> tuple[Panel, float]:
    """Draw slice and map of a case side by side, cut around the rectangle."""
    row = next(one for one in snapshot.rows if one.case_id == instance.case_id)
    path = snapshot.folder / row.image
    pixels = read_pixels(path, row.frame, read_header(path))
    spec = loaded.manifest.preprocessing
    scored = score(loaded, to_input(pixels, row.box, spec))
    picture, box = _enlarged(pixels, row.box)
    scene = Scene(
        pixels=picture,
        heat=cam.place(scored.cam, box, (PIXELS, PIXELS), spec),
        bounds=loaded.manifest.heat_range,
        box=box,
        caption=f"score {scored.probability:.3f}",
    )
    both = np.concatenate([_plain(scene), draw_scene(scene)], axis=1)
    content = io.BytesIO()
    Image.fromarray(both).save(content, "PNG")
    truth = "positive" if instance.label else "negative"
    caption = (
        f"{instance.cell}, {instance.place} score: {instance.probability:.3f}; "
        f"pathology SLN {truth} ({instance.case_id})"
    )
    name = f"{instance.cell.replace(' ', '-')}-{instance.place}"
    alt = f"Slice with its rectangle, and activation map. {caption}."
    return Panel(name, alt, content.getvalue(), None, WIDE, caption), scored.probability


def _enlarged(pixels: NDArray[np.float32], box: Box) -> tuple[NDArray[np.float32], Box]:
    """Cut a square around the rectangle and enlarge it to (PIXELS, PIXELS)."""
    x0, y0, x1, y1 = box
    side = min(FIELD * max(x1 - x0, y1 - y0), *pixels.shape)
    left = min(max((x0 + x1 - side) / 2, 0), pixels.shape[1] - side)
    top = min(max((y0 + y1 - side) / 2, 0), pixels.shape[0] - side)
    field = (left, top, left + side, top + side)
    size, how = (PIXELS, PIXELS), Image.Resampling.BICUBIC
    picture = Image.fromarray(pixels.astype(np.float32)).resize(size, how, box=field)
    scale = PIXELS / side
    edges = ((x0 - left), (y0 - top), (x1 - left), (y1 - top))
    at: Box = (edges[0] * scale, edges[1] * scale, edges[2] * scale, edges[3] * scale)
    return np.asarray(picture, dtype=np.float32), at


def _plain(scene: Scene) -> NDArray[np.uint8]:
    """Draw the slice and its rectangle alone."""
    grey = np.round(grey_levels(scene.pixels) * 255).astype(np.uint8)
    image = Image.fromarray(np.repeat(grey[..., None], 3, axis=-1))
    ImageDraw.Draw(image).rectangle(scene.box, outline=(255, 255, 255), width=2)
    return np.asarray(image)
