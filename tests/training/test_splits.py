import json

import numpy as np
import pytest
import torch

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from tests.quick_cohorts import row
from training import splits
from training.leakage import check_contrast, check_patients, check_pixels
from training.splits import Order

ORDER = Order("a" * 64, 5, 1)


def rows(n=60, **changes):
    return [row(number, **changes) for number in range(n)]


def test_a_patient_is_in_one_fold_with_all_cases():
    twice = [
        one.model_copy(update={"patient_key": f"patient-{number // 2}"})
        for number, one in enumerate(rows())
    ]
    drawn = splits.draw(twice, ORDER)

    assert set(drawn.fold_of.values()) == {1, 2, 3, 4, 5}
    assert len(drawn.fold_of) == 60
    for first, second in zip(twice[::2], twice[1::2], strict=True):
        assert drawn.fold_of[first.case_id] == drawn.fold_of[second.case_id]


def test_folds_have_equal_shares_of_label_and_size():
    cases = rows(300)
    drawn = splits.draw(cases, ORDER)
    for label in (0, 1):
        for large in (False, True):
            alike = [
                one.case_id
                for one in cases
                if one.sln == label and (one.size_cm > 2) == large
            ]
            counts = np.bincount(drawn.of(alike), minlength=6)[1:]
            assert counts.max() - counts.min() <= 1


def test_the_same_seed_gives_the_same_folds_and_another_does_not():
    assert splits.draw(rows(), ORDER) == splits.draw(rows(), ORDER)
    other = splits.draw(rows(), Order(ORDER.snapshot_id, 5, 2))
    assert other.fold_of != splits.draw(rows(), ORDER).fold_of


def test_folds_are_written_once_and_never_drawn_again(tmp_path):
    path = tmp_path / "run" / "splits.json"
    first = splits.obtain(path, rows(), ORDER)
    moved = json.loads(path.read_text())
    moved["fold_of"]["case-000"] = moved["fold_of"]["case-000"] % 5 + 1
    path.write_text(json.dumps(moved))

    kept = splits.obtain(path, rows(), ORDER)
    assert kept.fold_of["case-000"] != first.fold_of["case-000"]
    with pytest.raises(SettingsError, match="another snapshot"):
        splits.obtain(path, rows(), Order("b" * 64, 5, 1))


def test_damaged_folds_are_not_drawn_anew(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text("{")
    with pytest.raises(SettingsError, match="does not hold folds"):
        splits.obtain(path, rows(), ORDER)


def test_written_folds_that_divide_a_patient_are_refused(tmp_path):
    path = tmp_path / "splits.json"
    drawn = splits.obtain(path, rows(), ORDER)
    ids = list(drawn.fold_of)
    other = next(i for i in ids if drawn.fold_of[i] != drawn.fold_of[ids[0]])
    one_patient = [
        one.model_copy(update={"patient_key": "same"})
        if one.case_id in {ids[0], other}
        else one
        for one in rows()
    ]
    with pytest.raises(SettingsError, match="are of one patient"):
        splits.obtain(path, one_patient, ORDER)


def test_the_same_pixels_in_two_folds_are_refused():
    drawn = splits.draw(rows(), ORDER)
    ids = list(drawn.fold_of)
    other = next(i for i in ids if drawn.fold_of[i] != drawn.fold_of[ids[0]])
    same = [
        one.model_copy(update={"pixel_sha256": "f" * 64})
        if one.case_id in {ids[0], other}
        else one
        for one in rows()
    ]
    with pytest.raises(SettingsError, match="have the same pixels"):
        splits.check(drawn, same)


def test_the_same_pixels_in_two_roles_are_refused():
    cases = [row(0), row(1, "holdout", pixel_sha256=row(0).pixel_sha256)]
    parts = {one.case_id: f"role {one.role}" for one in cases}
    with pytest.raises(SettingsError, match=r"case-000 \(role development\)"):
        check_pixels(cases, parts)


@pytest.mark.parametrize("changes", [{"role": "holdout"}, {"centre": "2"}])
def test_a_patient_of_two_roles_or_centres_is_refused(changes):
    cases = [row(0), row(1, patient_key=row(0).patient_key, **changes)]
    with pytest.raises(SettingsError, match=r"case-000 .* and case-001") as refused:
        check_patients(cases)
    assert "patient-0" not in str(refused.value)


def test_only_development_cases_are_divided():
    with pytest.raises(SettingsError, match="case-060: only cases of role development"):
        splits.draw([*rows(), row(60, "external")], ORDER)


def test_a_fold_without_a_class_is_refused_with_its_count():
    labels, folds = np.array([0, 1, 0, 0]), np.array([1, 1, 2, 2])
    with pytest.raises(SettingsError, match="fold 2 has no positive case among 2"):
        splits.check_classes(Stage.NSLN, labels, folds)
    with pytest.raises(SettingsError, match="fold 2 has no negative case"):
        splits.check_classes(Stage.NSLN, 1 - labels, folds)


def test_too_few_cases_for_the_folds_are_refused():
    with pytest.raises(SettingsError, match="cannot be divided into 5 folds"):
        splits.draw(rows(3), ORDER)


def test_an_unknown_label_is_in_no_fold():
    drawn = splits.draw([*rows(), row(60, sln=-1, nsln=-1)], ORDER)
    assert "case-060" not in drawn.fold_of


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "is not finite"), (0.5, "has no contrast")]
)
def test_useless_crops_are_refused_by_name(value, said):
    crops = torch.rand(3, 70, 70)
    crops[1] = value
    with pytest.raises(SettingsError, match=f"of b {said}"):
        check_contrast(["a", "b", "c"], crops)
