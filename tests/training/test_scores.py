"""An evaluation comes back from its folder as it was, or says what is wrong with it."""

import numpy as np
import pytest

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.scores import (
    SCORES_NAME,
    CohortScores,
    Evaluation,
    Kind,
    ModelScores,
    Provenance,
    ScoredModel,
    read,
    write,
)
from worker.manifest import OperatingThreshold


def cohort(name, probabilities):
    n = len(probabilities)
    return CohortScores(
        name,
        tuple(f"{name}-{i}" for i in range(n)),
        np.arange(n, dtype=np.int64) % 2,
        np.array(probabilities),
    )


def evaluation():
    about = ScoredModel(
        model="ResNet18-I",
        kind=Kind.CNN,
        stage=Stage.SLN,
        threshold=OperatingThreshold(value=0.2, how="sensitivity 90% out of fold"),
    )
    provenance = Provenance(
        snapshot_id="a" * 64,
        description="phantoms",
        synthetic=True,
        created_at="2026-01-02T03:04:05Z",
        code_version="1",
        libraries={"numpy": np.__version__},
        seeds=(1,),
    )
    cases = ({"case_id": "training-0", "size_cm": "1.5"},)
    parts = (cohort("training", [0.1, 1 / 3]), cohort("internal", [0.0, 1.0, 0.7]))
    return Evaluation(provenance, cases, (ModelScores(about, parts),))


def test_every_digit_comes_back(tmp_path):
    write(tmp_path, evaluation())
    found = read(tmp_path)
    before = evaluation()
    assert found.provenance == before.provenance
    assert found.cases == before.cases
    assert [each.about for each in found.of(Stage.SLN)] == [before.models[0].about]
    for name in ("training", "internal"):
        was, now = before.models[0].cohort(name), found.models[0].cohort(name)
        assert was.case_ids == now.case_ids
        assert was.labels.tolist() == now.labels.tolist()
        assert was.probabilities.tolist() == now.probabilities.tolist()
    assert found.models[0].cohort("external") is None


def test_a_missing_folder_says_what_to_run(tmp_path):
    with pytest.raises(SettingsError, match="python -m training evaluate"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new"), [("0.7", "1.7"), ("0.7", "nan"), ("internal-1", "internal-0")]
)
def test_a_faulty_table_is_refused(tmp_path, old, new):
    write(tmp_path, evaluation())
    path = tmp_path / SCORES_NAME
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SettingsError, match="is not an evaluation"):
        read(tmp_path)
