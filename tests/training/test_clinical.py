"""The clinical model and the radiologists: before surgery only, never own answers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.baselines import clinical, logistic, radiologist
from training.baselines.cases import Cases, cohort_of, labelled, score
from training.baselines.phantom import Draw, cases
from training.phantom import law as laws
from training.phantom.anatomy import Level
from training.statistics.auc import auc


@pytest.fixture(scope="module")
def cohort():
    draws = [Draw(law, 519 if law.name == "train" else 1200, 3) for law in laws.COHORTS]
    return cases(draws, Level.BENCH)


def separated():
    """The variable is 1 in 20 cases, all positive; one of the other 20 is."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.repeat([0, 1], 20), np.round(rng.normal(size=40), 2)])
    labels = np.where(x[:, 0] == 1, 1, 0)
    labels[3] = 1
    return x, labels


def test_the_regression_is_that_of_scikit_learn_without_a_penalty():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    labels = (rng.random(200) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64)
    ours = logistic.fit(x, labels)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, labels)

    np.testing.assert_allclose(ours.coefficients[1:], theirs.coef_[0], atol=1e-6)
    np.testing.assert_allclose(
        ours.predict(x), theirs.predict_proba(x)[:, 1], atol=1e-6
    )
    assert ours.method == logistic.LIKELIHOOD


def test_the_odds_ratio_of_a_table_is_its_cross_product():
    x = np.repeat([1.0, 0.0], [193, 326])[:, None]
    labels = np.repeat([1, 0, 1, 0], [77, 116, 63, 263])
    ratio, low, high = logistic.fit(x, labels).odds_ratio(0)
    half = 1.959964 * np.sqrt(1 / 77 + 1 / 116 + 1 / 63 + 1 / 263)

    assert ratio == pytest.approx(77 * 263 / (116 * 63), rel=1e-6)
    assert (low, high) == pytest.approx(
        (ratio * np.exp(-half), ratio * np.exp(half)), rel=1e-5
    )


def test_an_empty_cell_gets_firths_estimate_and_says_so():
    ours = logistic.fit(*separated())

    assert "Firth" in ours.method
    # firthmodels 0.8.2 on the same data, with tolerances of 1e-10
    np.testing.assert_allclose(
        ours.coefficients, [-2.3243936589, 5.8675831035, 0.1481797434], rtol=1e-6
    )


def test_firths_estimate_of_a_table_adds_half_a_case_to_each_cell():
    x = np.repeat([1.0, 0.0], [12, 20])[:, None]
    labels = np.repeat([1, 1, 0], [12, 5, 15])
    ours = logistic.firth(x, labels)

    assert ours.coefficients[1] == pytest.approx(
        np.log(12.5 * 15.5 / (0.5 * 5.5)), abs=1e-6
    )
    one, two = 12.5 / 13, 5.5 / 21
    variance = 1 / (12 * one * (1 - one)) + 1 / (20 * two * (1 - two))
    assert ours.errors[1] == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_the_paper_s_two_variables_are_chosen(cohort):
    table = clinical.odds_ratios(cohort, Stage.SLN)
    size, birads, age, _ = table.rows

    assert (table.n, table.positives) == (519, table.positives)
    assert 1.5 < size.multivariable[0] < 4.5
    assert birads.multivariable_p < 0.05
    assert age.multivariable is None
    assert age.univariable[1] < 1 < age.univariable[2]


def test_the_clinical_model_is_weak_and_at_chance_in_centre_two(cohort):
    (model,) = clinical.score(cohort, Stage.SLN)
    areas = {p.cohort: auc(p.labels, p.probabilities) for p in model.cohorts}

    assert list(areas) == ["training", "internal", "ext1", "ext2"]
    assert 0.60 < areas["internal"] < 0.74
    assert areas["ext1"] == pytest.approx(0.5, abs=0.05)
    assert "out of fold" in model.about.threshold.how
    assert "size" in model.about.detail["variables"]


def test_stage_two_knows_positive_patients_only(cohort):
    (model,) = clinical.score(cohort, Stage.NSLN)
    part = model.cohort("training")
    positive = {row["case_id"] for row in cohort.rows if row["sln"] == "1"}

    assert 100 < len(part) < 180
    assert set(part.case_ids) <= positive


def test_a_case_is_never_scored_by_a_fit_that_saw_it(cohort):
    found = labelled(cohort, Stage.SLN)
    (model,) = clinical.score(cohort, Stage.SLN)

    def remember(kept):
        return lambda rows: np.isin(rows, kept).astype(float)

    seen = score(model.about, found, remember)
    assert all((part.probabilities == 0).all() for part in seen.cohorts)


def test_labels_dealt_at_random_are_not_learnt(cohort):
    rng = np.random.default_rng(5)
    mine = [dict(row) for row in cohort.rows if row["role"] == "development"]
    for row, label in zip(mine, rng.permutation([r["sln"] for r in mine]), strict=True):
        row["sln"] = label
    (model,) = clinical.score(Cases(mine, cohort.fold_of), Stage.SLN)
    (part,) = model.cohorts

    assert auc(part.labels, part.probabilities) == pytest.approx(0.5, abs=0.09)


def test_missing_values_are_filled_counted_and_never_lost(cohort):
    rows = [dict(row) for row in cohort.rows]
    for i, row in enumerate(rows):
        row["size_cm"] = "unknown" if i % 50 == 0 else row["size_cm"]
        row["birads"] = "" if i % 4 == 0 else row["birads"]
        row["age"] = "" if i % 3 else row["age"]
    holed = Cases(rows, cohort.fold_of)
    table = clinical.odds_ratios(holed, Stage.SLN)
    (model,) = clinical.score(holed, Stage.SLN)

    assert [each.missing for each in table.rows[:2]] == [11, 130]
    assert "missing in 67% of cases" in table.rows[2].note
    assert sum(map(len, model.cohorts)) == len(rows)


def test_what_surgery_tells_cannot_enter(cohort):
    grade = clinical.Variable("grade", "grade", lambda row: 1.0)

    with pytest.raises(SettingsError, match="surgical specimen"):
        clinical.score(cohort, Stage.SLN, (grade,))


def test_a_cell_that_is_no_number_names_case_and_column_only(cohort):
    rows = [{**row, "age": "about 50"} for row in cohort.rows]

    with pytest.raises(
        SettingsError, match=r"^train-00000: column age is not a number$"
    ):
        clinical.score(Cases(rows, cohort.fold_of), Stage.SLN)


def test_one_class_is_refused_before_anything_is_fitted(cohort):
    rows = [{**row, "sln": "0"} for row in cohort.rows]

    with pytest.raises(SettingsError, match="0 positive of"):
        clinical.score(Cases(rows, cohort.fold_of), Stage.SLN)


def test_radiologists_are_read_and_an_empty_report_is_left_out(cohort):
    rows = [dict(row) for row in cohort.rows]
    rows[0]["mri_aln"] = ""
    (model,) = radiologist.score(Cases(rows, {}), Stage.SLN)
    first = model.cohort("training")

    assert len(first) == 518
    assert set(first.probabilities) == {0.0, 1.0}
    assert model.about.threshold.value == 0.5
    blank = [{**row, "mri_aln": ""} for row in rows]
    assert radiologist.score(Cases(blank, {}), Stage.SLN) == ()


def test_cohorts_are_named_by_role():
    assert cohort_of({"role": "development", "cohort": "train"}) == "training"
    assert cohort_of({"role": "holdout", "cohort": "internal"}) == "internal"
    assert cohort_of({"role": "external", "cohort": "ext2"}) == "ext2"
