"""Table 1 and the flowchart of inclusion, from rows alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from training import description, flowchart
from training.datasets import LabelledCrops
from training.row import row_of
from training.snapshot import Exclusion, Snapshot
from training.stage_one import StageOne

PLACE = {"image": "a.dcm", "frame": "1", "x0": "0", "y0": "0", "x1": "2", "y1": "2"}
ROLES = {"training": "development", "internal": "holdout"}


def row(number, cohort="training", **cells):
    role = ROLES.get(cohort, "external")
    case = {"case_id": f"c{number}", "patient_key": f"p{number}", "role": role}
    defaults = {"cohort": cohort, "sln": "0", "nsln": "unknown"}
    return row_of(PLACE | case | defaults | cells)


def rows_of(ages, cohort, start):
    return [
        row(start + i, cohort, age=str(age), menopause="pre" if age < 50 else "post")
        for i, age in enumerate(ages)
    ]


def snapshot_of(rows, **others):
    n = len(rows)
    empty = LabelledCrops(torch.zeros(n, 70, 70), torch.zeros(n), torch.zeros(n))
    values = {"description": "", "exclusions": (), "folder": Path()} | others
    return Snapshot("id", tuple(rows), empty, **values)


def block(table, name):
    return next(one for one in table.blocks if one.name == name)


def test_measures_have_median_quartiles_and_a_rank_test():
    ages = ([40, 45, 50, 61], [55, 60, 70, 81, 82])
    rows = rows_of(ages[1], "internal", 10) + rows_of(ages[0], "training", 0)
    table = description.table_one(rows)
    age = block(table, "age")

    assert (table.cohorts, table.cases) == (("training", "internal"), (4, 5))
    assert age.spreads[1].median == 70
    assert (age.spreads[0].low, age.spreads[0].high) == (43.75, 52.75)
    assert age.p == pytest.approx(stats.kruskal(*ages).pvalue)


def test_categories_have_shares_of_the_known_and_a_test():
    rows = rows_of([40] * 3 + [60] * 1, "training", 0)
    rows += rows_of([40] * 1 + [60] * 4, "internal", 10)
    rows.append(row(99, "internal"))
    menopause = block(description.table_one(rows), "menopause")

    assert [str(one) for one in menopause.levels[0].shares] == ["3 (75.0)", "1 (20.0)"]
    assert menopause.unknown == (0, 1)
    assert menopause.test == "Fisher"
    assert menopause.p == pytest.approx(stats.fisher_exact([[3, 1], [1, 4]]).pvalue)


def test_large_counts_are_compared_by_chi_squared():
    rows = rows_of([40] * 30 + [60] * 20, "training", 0)
    rows += rows_of([40] * 10 + [60] * 40, "internal", 100)
    menopause = block(description.table_one(rows), "menopause")
    expected = stats.chi2_contingency([[30, 10], [20, 40]], correction=False).pvalue

    assert menopause.test == "chi2"
    assert menopause.p == pytest.approx(expected)


def test_few_counts_of_many_categories_give_the_same_p_each_time():
    rows = [row(i, grade="I") for i in range(3)]
    rows += [row(10 + i, "internal", grade=g) for i, g in enumerate(("II", "III", "I"))]
    tables = [description.table_one(rows) for _ in range(2)]

    assert block(tables[0], "grade").p == block(tables[1], "grade").p
    assert "drawn" in block(tables[0], "grade").test


def test_a_drawn_p_is_near_the_exact_one():
    rng = np.random.default_rng(2)
    counts = np.array([[6, 1], [2, 5]])
    rows = [
        row(int(rng.integers(1e9)), cohort, menopause=level)
        for line, level in zip(counts, ("pre", "post"), strict=True)
        for n, cohort in zip(line, ("training", "internal"), strict=True)
        for _ in range(n)
    ]
    exact = block(description.table_one(rows), "menopause").p
    assert description.drawn_p(counts) == pytest.approx(exact, abs=0.01)


def test_one_cohort_or_one_level_is_not_compared():
    table = description.table_one([row(i, grade="II", age="50") for i in range(4)])
    assert {one.p for one in table.blocks} == {None}
    assert description.lines(table)


def test_nsln_is_described_among_positive_sentinel_nodes():
    rows = [row(1, sln="1", nsln="1"), row(2, sln="1"), row(3, nsln="1")]
    nsln = block(description.table_one(rows), "nsln")
    assert nsln.levels[1].shares[0].n == 1
    assert nsln.levels[1].shares[0].of == 1
    assert nsln.unknown == (1,)


def test_the_size_is_cut_above_two_centimetres():
    rows = [row(i, size_cm=size) for i, size in enumerate(("2.0", "2.01", ""))]
    size = block(description.table_one(rows), "size_group")
    assert [one.shares[0].n for one in size.levels] == [1, 1]
    assert size.unknown == (1,)


def test_the_flowchart_adds_up():
    rows = [
        row(1, sln="1", nsln="1"),
        row(2, sln="1"),
        row(3, "internal"),
        row(4, "ext1", sln="unknown"),
    ]
    left_out = tuple(
        Exclusion(case_id=f"x{i}", reason=reason)
        for i, reason in enumerate(("no_roi", "quality", "no_roi"))
    )
    chart = flowchart.flowchart(snapshot_of(rows, exclusions=left_out))

    assert (chart.screened, chart.included) == (7, 4)
    assert chart.excluded == (("no_roi", 2), ("quality", 1))
    assert [one.cohort for one in chart.cohorts] == ["training", "internal", "ext1"]
    total = chart.total
    assert (total.sln_positive, total.sln_negative, total.sln_unknown) == (2, 1, 1)
    assert (total.nsln_known, total.nsln_positive) == (1, 1)
    assert "excluded 2: no rectangle drawn" in "\n".join(flowchart.lines(chart))


def test_the_verified_share_is_told_by_risk_group():
    rows = [row(1), row(2, sln="unknown"), row(3, sln="1")]
    risks = {"c1": "low", "c2": "low", "c3": "high"}
    said = {
        case: StageOne(
            case_id=case,
            probability=0.4,
            threshold=0.5,
            risk=risk,
            model="m",
            weights_sha256="0",
        )
        for case, risk in risks.items()
    }
    verified = flowchart.flowchart(snapshot_of(rows, stage_one=said)).verified

    assert [(one.risk, one.share) for one in verified] == [("low", 0.5), ("high", 1.0)]


def test_a_table_prints_with_one_column_for_each_cohort():
    rng = np.random.default_rng(1)
    rows = rows_of(rng.integers(30, 80, 20), "training", 0)
    rows += rows_of(rng.integers(30, 80, 20), "ext1", 100)
    head, *lines = description.cells(description.table_one(rows))

    assert head[2:4] == ["training (n = 20)", "ext1 (n = 20)"]
    assert {len(line) for line in lines} == {len(head)}
