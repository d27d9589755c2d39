"""All comparators of one stage at once, for an evaluation."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.baselines import clinical, radiologist, radiomics
from training.baselines.cases import Cases
from training.scores import ModelScores


class Comparators(NamedTuple):
    """Scored comparators, and a sentence for each that could not be fitted."""

    models: tuple[ModelScores, ...]
    left_out: tuple[str, ...]


def score(
    cases: Cases, stage: Stage, tick: Callable[[], None] = lambda: None
) -> Comparators:
    """Score radiomics, the clinical model and the radiologists, in this order.

    Args:
        cases: Rows of every cohort, the folds of the network, the marked pixels.
        stage: Which label; few NSLN labels may leave a comparator out.
        tick: Called after each case whose pixels were measured.
    """
    models: list[ModelScores] = []
    left_out: list[str] = []
    baselines: dict[str, Callable[[Cases, Stage], tuple[ModelScores, ...]]] = {
        "Radiomics": partial(radiomics.score, tick=tick),
        clinical.MODEL: clinical.score,
        radiologist.MODEL: radiologist.score,
    }
    for name, run in baselines.items():
        try:
            models += run(cases, stage)
        except SettingsError as error:
            left_out.append(f"{name}: {error}")
    return Comparators(tuple(models), tuple(left_out))
