from dataclasses import replace

import numpy as np
import pytest

from dicom_node.findings import Stage
from training.scores import CohortScores, Kind, ModelScores, ScoredModel
from training.statistics.confusion import Counts, Metric
from training.statistics.consistency import (
    InconsistentNumbersError,
    Place,
    Rule,
    Share,
    contradictions,
    refuse,
    row,
)
from training.statistics.strategy import Reading, cascade, compare, pool
from training.statistics.subgroup import column, size_class, subgroups
from worker.manifest import OperatingThreshold


def scored(model="ResNet18", seed=0, weights="a" * 64):
    rng = np.random.default_rng(seed)
    parts = []
    for name, n in (("training", 80), ("internal", 40)):
        labels = (np.arange(n) % 3 == 0).astype(np.int64)
        chances = np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0, 1)
        cases = tuple(f"{name}-{i}" for i in range(n))
        parts.append(CohortScores(name, cases, labels, chances))
    about = ScoredModel(
        model=model,
        kind=Kind.CNN,
        stage=Stage.SLN,
        threshold=OperatingThreshold(value=0.5, how="fixed"),
        weights_sha256=weights,
    )
    return ModelScores(about, tuple(parts))


def cases_of(part):
    sizes = ("1.2", "2.0", "2.01", "")
    return {
        case: {"size_cm": sizes[i % 4], "subtype": "HER2" if i % 2 else "luminal A"}
        for i, case in enumerate(part.case_ids)
    }


def table(model=None, threshold=0.5):
    model = model or scored()
    rows = []
    for part in model.cohorts:
        rows.append(row(Place("Table 2"), model, part, threshold))
        split = subgroups(part, cases_of(part), ("size", size_class), threshold)
        rows += [
            row(Place("Table 3", "size", each.name), model, each.scores, threshold)
            for each in split.groups
        ]
    return rows


def test_counted_rows_are_let_through():
    refuse([*table(), *table(scored("Clinical model", 3, None)), *table(threshold=0.3)])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"accuracy": Share(99.0, 39, 40)}, Rule.WITHIN),
        ({"accuracy": Share(70.0)}, Rule.COUNTED),
        ({"sensitivity": Share(50.0, 9, 14)}, Rule.INTEGERS),
        ({"positives": 15}, Rule.SAME_CASES),
        ({"weights_sha256": "b" * 64}, Rule.SAME_MODEL),
        ({"auc": 0.01}, Rule.SUBGROUP_AUC),
    ],
)
def test_each_rule_refuses_what_breaks_it(change, rule):
    rows = [*table(), *table(scored("Clinical model", 3))]
    at = next(i for i, each in enumerate(rows) if each.cohort == "internal")
    rows[at] = replace(rows[at], **change)

    assert rule in {each.rule for each in contradictions(rows)}
    with pytest.raises(InconsistentNumbersError, match="Table 2, SLN, internal"):
        refuse(rows)


def test_radiologists_may_lack_cases_but_have_none_beyond_the_cohort():
    model = scored("Radiologists' MRI reports", 3, None)
    about = model.about.model_copy(update={"kind": Kind.RADIOLOGIST})
    part = model.cohorts[0]
    fewer = CohortScores(
        "training", part.case_ids[:50], part.labels[:50], part.probabilities[:50]
    )
    lacking = ModelScores(about, (fewer,))
    refuse([row(Place("Table 2"), lacking, fewer, 0.5), *table()])

    turned = replace(part, labels=1 - part.labels)
    beyond = row(Place("Table 2"), ModelScores(about, (turned,)), turned, 0.5)
    assert {each.rule for each in contradictions([*table(), beyond])} == {
        Rule.SAME_CASES
    }


def test_a_lost_subgroup_is_refused():
    rows = [each for each in table() if each.group != "unknown"]

    assert {each.rule for each in contradictions(rows)} >= {Rule.SUBGROUPS}


def test_two_centimetres_is_small_and_an_empty_size_is_unknown():
    part = scored().cohorts[0]
    split = subgroups(part, cases_of(part), ("size", size_class), 0.5)

    assert [each.name for each in split.groups] == ["≤2 cm", ">2 cm", "unknown"]
    assert [each.counts.n for each in split.groups] == [40, 20, 20]
    assert split.interaction.p > 0
    assert "interaction" in split.caution


def test_any_column_splits_a_cohort():
    part = scored().cohorts[0]
    split = subgroups(part, cases_of(part), ("subtype", column("subtype")), 0.5)

    assert [each.name for each in split.groups] == ["HER2", "luminal A"]


def test_readings_are_compared_on_the_cases_they_share():
    first, second = (scored(seed=seed).cohorts[0] for seed in (1, 2))
    fewer = CohortScores(
        "training",
        second.case_ids[::-1][:60],
        second.labels[::-1][:60],
        second.probabilities[::-1][:60],
    )
    ours = compare(Reading("a", first, 0.5), Reading("b", fewer, 0.4))

    assert ours.first.n == ours.second.n == 60
    assert ours.sensitivity.only_first - ours.sensitivity.only_second == (
        ours.first.tp - ours.second.tp
    )
    assert ours.specificity.only_first - ours.specificity.only_second == (
        ours.first.tn - ours.second.tn
    )


def test_readings_that_disagree_on_a_label_are_refused():
    part = scored().cohorts[0]
    turned = replace(part, labels=1 - part.labels)

    with pytest.raises(ValueError, match="labels"):
        compare(Reading("a", part, 0.5), Reading("b", turned, 0.5))


def test_every_patient_of_the_cascade_is_in_one_place():
    sln = pool(scored().cohorts, "all")
    positive = sln.labels == 1
    ids = tuple(np.array(sln.case_ids)[positive].tolist())[1:]
    nsln = CohortScores(
        "all", ids, np.arange(len(ids)) % 2, np.linspace(0, 1, len(ids))
    )
    ours = cascade(Reading("I", sln, 0.5), Reading("II", nsln, 0.5))

    counts = Reading("I", sln, 0.5).counts
    assert ours.n == len(sln)
    assert ours.alnd.n + ours.unstaged == counts.tp
    assert Counts(1, 2, 3, 4) + Counts(1, 1, 1, 1) == Counts(2, 3, 4, 5)
    assert Metric.FDR == "FDR"
