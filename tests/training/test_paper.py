"""The same functions as any cohort's print the paper's rows, and refuse the rest."""

import json

import pytest
from click.testing import CliRunner

from training import paper
from training.cli import main
from training.statistics.confusion import Metric, count, rates
from training.statistics.consistency import (
    InconsistentNumbersError,
    Rule,
    across,
    contradictions,
    refuse,
)
from training.statistics.strategy import error_rates, surgery

PRINTED = {
    "training": ("55.7", "76.4", "48.0"),
    "internal": ("60.5", "84.4", "52.6"),
    "ext1": ("43.9", "48.8", "43.1"),
    "ext2": ("63.6", "71.4", "56.5"),
}


@pytest.mark.parametrize("scores", paper.clinical(), ids=lambda s: s.cohort)
def test_the_clinical_rows_come_out_to_the_printed_digit(scores):
    found = rates(count(scores.labels, scores.probabilities, 0.5))
    three = (Metric.ACCURACY, Metric.SENSITIVITY, Metric.SPECIFICITY)

    assert (
        tuple(f"{100 * found[metric].value:.1f}" for metric in three)
        == PRINTED[scores.cohort]
    )


def test_recovered_cohorts_are_those_of_the_paper():
    assert sum(each.positives for each in paper.COHORTS) == 234
    assert sum(each.n for each in paper.COHORTS) == 988
    for each in paper.COHORTS:
        counts = paper.CLINICAL[each.name]
        assert (counts.n, counts.positives) == (each.n, each.positives)
        sizes = [v for k, v in paper.SMALL_POSITIVES.items() if k[0] == each.name]
        assert tuple(map(sum, zip(*sizes, strict=True))) == (each.positives, each.n)


def test_the_radiologists_rates_are_fdr_and_for():
    scores = paper.radiologists()
    counts = count(scores.labels, scores.probabilities, 0.5)
    shown = {e.label: f"{100 * e.proportion.value:.1f}" for e in error_rates(counts)}

    assert shown == {
        "FPR": "39.5",
        "FNR": "55.3",
        "FDR (paper: 'FPR')": "77.9",
        "FOR (paper: 'FNR')": "18.6",
    }
    assert paper.solve_figure_4() == [paper.RADIOLOGISTS]
    assert surgery(counts).avoided == 279
    assert surgery(counts).missed == 52


def refused(rule, table):
    return {
        each.row
        for each in paper.impossible()
        if (each.rule, each.table) == (rule, table)
    }


def test_accuracy_outside_its_rates_is_refused_in_exactly_these_rows():
    assert refused(Rule.WITHIN, "Table 2") == {
        "SLN, internal, Radiomics model",
        "SLN, ext1, Radiomics model",
        "SLN, internal, CNN model",
        "SLN, ext1, CNN model",
        "SLN, ext2, CNN model",
    }
    assert refused(Rule.WITHIN, "Table 3") >= {
        "SLN, ext2, ≤2 cm, CNN model",
        "SLN, ext2, >2 cm, CNN model",
    }


def test_rates_that_are_no_patients_are_refused_in_exactly_these_rows():
    """CNN training: 96.8 is 0.1 above 96.7, so it falls to 96.8% being no k/519."""
    assert refused(Rule.INTEGERS, "Table 2") == {
        "SLN, training, Radiomics model",
        "SLN, ext2, Radiomics model",
        "SLN, training, CNN model",
        "NSLN, internal, CNN model",
        "NSLN, ext1, CNN model",
        "NSLN, ext2, CNN model",
    }
    assert "SLN, ext2, ≤2 cm, Clinical model" in refused(Rule.INTEGERS, "Table 3")


def test_the_rows_that_can_hold_are_not_refused():
    good = [row for row in paper.table_2() if row.model == "Clinical model"]
    good += [row for row in paper.table_2() if row.n == 139]
    small = [row for row in paper.table_3() if row.model == "Clinical model"]

    assert len(good) == 5
    assert not contradictions(good, counted=False)
    assert [each.row for each in contradictions(small, counted=False)] == [
        "SLN, ext2, ≤2 cm, Clinical model"
    ]


def test_subgroups_that_pool_to_other_numbers_are_named():
    said = {e.row: e.why for e in paper.impossible() if e.rule is Rule.SUBGROUPS}

    for row, mean, printed in (
        ("SLN, internal, CNN model", "79.9", "84.2"),
        ("SLN, ext1, CNN model", "87.9", "89.2"),
        ("SLN, ext2, CNN model", "68.2", "70.9"),
        ("SLN, training, CNN model", "98.5", "96.8"),
    ):
        assert f"accuracy {mean}%, not {printed}%" in said[row]
    assert "SLN, ext1, Clinical model" in said


@pytest.mark.parametrize(("cohort", "needed"), [("internal", 0.973), ("ext1", 0.945)])
def test_the_auc_across_sizes_that_the_paper_needs(cohort, needed):
    (whole,) = (
        row
        for row in paper.table_2()
        if (row.cohort, row.model, row.stage) == (cohort, "CNN model", "sln")
    )
    parts = [
        row
        for row in paper.table_3()
        if (row.cohort, row.model) == (cohort, "CNN model")
    ]

    assert across(whole, parts).auc == pytest.approx(needed, abs=0.001)


def test_the_report_would_refuse_the_papers_table_and_say_why():
    with pytest.raises(InconsistentNumbersError, match=r"Table 2, SLN.* has no k/n"):
        refuse(paper.table_2())


def test_the_command_prints_rows_and_reasons():
    result = CliRunner().invoke(main, ["paper", "--json"])
    whole = json.loads(result.output)

    assert [row["printed"] for row in whole["clinical"][:3]] == [55.7, 76.4, 48.0]
    assert "107/140" in whole["clinical"][1]["recomputed (95% CI) k/n"]
    assert any("292 patients" in each["why"] for each in whole["impossible"])
    assert "cannot all hold" in CliRunner().invoke(main, ["paper"]).output
