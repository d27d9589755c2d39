import csv
import json
import shutil

import numpy as np
import pytest
import torch
from pydicom import dcmread

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training import cohort, snapshot
from training.phantom import writer
from training.train import check_enough


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "phantom"
    list(writer.write(writer.Order(cases=6, seed=3, slices=1), out))
    return out


@pytest.fixture
def folder(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "cohort")


def table_of(folder):
    with (folder / "cohort.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def rewrite(folder, change):
    rows = table_of(folder)
    change(rows)
    with (folder / "cohort.csv").open("w", newline="") as stream:
        writer_ = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer_.writeheader()
        writer_.writerows(rows)


def refusal(folder, change=lambda rows: None):
    rewrite(folder, change)
    with pytest.raises(SettingsError) as raised:
        snapshot.load(folder)
    return str(raised.value)


def set_cell(row, column, value):
    return lambda rows: rows[row].update({column: value})


def test_a_cohort_and_its_snapshot_are_the_same(folder, tmp_path):
    raw = snapshot.load(folder)
    frozen = snapshot.freeze(folder, tmp_path / "frozen")

    assert frozen.id == raw.id
    assert torch.equal(frozen.crops.crops, raw.crops.crops)
    assert torch.equal(frozen.crops.sides, raw.crops.sides)
    assert raw.crops.crops.dtype == torch.float32
    assert frozen.description == "synthetic phantoms, level easy, seed 3"
    assert frozen.synthetic
    strip = [row.model_copy(update={"image": None}) for row in raw.rows]
    assert strip == [row.model_copy(update={"image": None}) for row in frozen.rows]
    again = snapshot.freeze(tmp_path / "frozen", tmp_path / "again")
    assert again.id == raw.id


def test_a_snapshot_keeps_the_marked_slices(folder, tmp_path):
    frozen = snapshot.freeze(folder, tmp_path / "frozen")

    for row in frozen.rows:
        image = dcmread(frozen.folder / row.image)
        assert image.SOPInstanceUID == row.sop_instance_uid


def test_the_order_of_rows_does_not_change_the_id(folder):
    before = snapshot.load(folder).id
    rewrite(folder, lambda rows: rows.reverse())

    assert snapshot.load(folder).id == before


def test_a_label_changes_the_id(folder):
    before = snapshot.load(folder).id
    rewrite(folder, set_cell(0, "sln", "unknown"))

    assert snapshot.load(folder).id != before


@pytest.mark.parametrize("name", ["cohort.csv", "crops.npz", "slices/00003.dcm"])
def test_a_changed_file_is_named(folder, tmp_path, name):
    snapshot.freeze(folder, tmp_path / "frozen")
    path = tmp_path / "frozen" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(SettingsError, match=f"{name} is not what was frozen"):
        snapshot.load(tmp_path / "frozen")


def test_a_missing_file_is_named(folder, tmp_path):
    snapshot.freeze(folder, tmp_path / "frozen")
    (tmp_path / "frozen" / "crops.npz").unlink()

    with pytest.raises(SettingsError, match=r"crops\.npz is not what was frozen"):
        snapshot.load(tmp_path / "frozen")


def test_a_snapshot_of_a_newer_format_is_refused(folder, tmp_path):
    snapshot.freeze(folder, tmp_path / "frozen")
    path = tmp_path / "frozen" / "snapshot.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))

    with pytest.raises(SettingsError, match="has format 2"):
        snapshot.load(tmp_path / "frozen")


def test_a_snapshot_is_never_written_over(folder, tmp_path):
    (tmp_path / "frozen").mkdir()
    with pytest.raises(FileExistsError, match="never written over"):
        snapshot.freeze(folder, tmp_path / "frozen")


def test_a_faulty_cohort_leaves_nothing(folder, tmp_path):
    rewrite(folder, set_cell(5, "x1", "9999"))
    with pytest.raises(SettingsError):
        snapshot.freeze(folder, tmp_path / "out" / "frozen")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("sln", "maybe", "sln: must be 0, 1 or unknown"),
        ("role", "test", "role: must be development, holdout or external"),
        ("size_cm", "23mm", "size_cm: must be a number of centimetres"),
        ("size_cm", "35", "size_cm: must be a number of centimetres"),
        ("age", "-1", "age: must be a number of years"),
        ("menopause", "peri", "menopause: must be pre or post"),
        ("histology", "unclear", "histology: must be ductal, lobular or other"),
        ("grade", "IV", "grade: must be I, II or III"),
        ("subtype", "basal", "subtype: must be luminal A"),
        ("birads", "7", "birads: must be"),
        ("mri_aln", "2", "mri_aln: must be 0 or 1"),
        ("laterality", "left", "laterality: must be L or R"),
        ("frame", "0", "frame: must be a whole number"),
        ("x0", "nan", "x0: must be a finite number"),
        ("x0", "9999", "the rectangle is empty"),
        ("image", "../elsewhere.dcm", "inside the cohort's folder"),
        ("image", "case-0002/none.dcm", "there is no file case-0002/none.dcm"),
    ],
)
def test_a_wrong_value_is_refused_with_its_case_and_column(folder, column, value, said):
    text = refusal(folder, set_cell(1, column, value))

    assert "case-0002" in text
    assert said in text


def test_every_fault_is_told_at_once(folder):
    def spoil(rows):
        rows[0]["grade"], rows[4]["age"] = "IV", "old"

    text = refusal(folder, spoil)

    assert "case-0001" in text
    assert "case-0005" in text


@pytest.mark.parametrize("column", ["case_id", "sln", "x0", "image"])
def test_a_missing_column_is_named(folder, column):
    text = refusal(folder, lambda rows: [row.pop(column) for row in rows])
    assert f"lacks the column(s) {column}" in text


def test_a_case_twice_is_refused(folder):
    text = refusal(folder, set_cell(1, "case_id", "case-0001"))
    assert "case case-0001: case_id stands in two rows" in text


def test_a_patient_with_two_roles_is_refused(folder):
    def share(rows):
        rows[1] |= {"patient_key": rows[0]["patient_key"], "role": "holdout"}
        rows[0]["role"] = "development"

    assert "role: the patient has two roles" in refusal(folder, share)


def test_a_patient_of_two_centres_is_refused(folder):
    def share(rows):
        key, role = rows[0]["patient_key"], rows[0]["role"]
        rows[1] |= {"patient_key": key, "role": role, "centre": "9"}

    assert "centre: the patient is of two centres" in refusal(folder, share)


def test_the_same_pixels_of_two_patients_are_refused(folder):
    def copy(rows):
        for column in ("image", "x0", "y0", "x1", "y1"):
            rows[1][column] = rows[0][column]

    text = refusal(folder, copy)
    assert (
        "case case-0002: image: the marked pixels are those of case case-0001" in text
    )


def test_both_sides_of_one_patient_may_share_a_role(folder):
    def share(rows):
        for column in ("patient_key", "role", "centre"):
            rows[1][column] = rows[0][column]

    rewrite(folder, share)
    assert len(snapshot.load(folder)) == 6


def test_a_rectangle_that_leaves_its_slice_is_refused(folder):
    text = refusal(folder, set_cell(2, "x1", "9999"))
    assert "case case-0003: x0..y1: the rectangle leaves its slice" in text


def spoil_pixels(folder, change):
    row = table_of(folder)[0]
    image = dcmread(folder / row["image"])
    change(image)
    image.save_as(folder / row["image"])


def test_constant_pixels_are_refused(folder):
    def flatten(image):
        image.PixelData = np.full_like(image.pixel_array, 7).tobytes()

    spoil_pixels(folder, flatten)
    assert "case case-0001: x0..y1: The marked pixels have no contrast" in refusal(
        folder
    )


def test_pixels_that_are_no_number_are_refused(folder):
    def overflow(image):
        image.RescaleSlope, image.RescaleIntercept = "1e300", "1e308"

    spoil_pixels(folder, overflow)
    assert "case case-0001: image: " in refusal(folder)


def test_an_unreadable_image_is_refused(folder):
    row = table_of(folder)[3]
    (folder / row["image"]).write_bytes(b"not DICOM")

    text = refusal(folder)
    assert "case case-0004: image: the file cannot be read" in text
    assert "export" in text


def test_a_slice_without_spacing_is_refused(folder):
    def forget(image):
        del image.PixelSpacing

    spoil_pixels(folder, forget)
    assert "states no pixel spacing" in refusal(folder)


def test_a_patient_treated_before_surgery_is_excluded(folder):
    def treat(rows):
        for row in rows:
            row["neoadjuvant"] = "no"
        rows[2]["neoadjuvant"] = "yes"

    rewrite(folder, treat)
    found = snapshot.load(folder)

    assert len(found) == 5
    assert [(one.case_id, one.reason) for one in found.exclusions] == [
        ("case-0003", "neoadjuvant_therapy")
    ]


def test_a_case_without_pathology_stays_as_unknown(folder):
    rewrite(folder, set_cell(0, "sln", ""))
    found = snapshot.load(folder)

    assert found.rows[0].sln == -1
    assert found.cases[0]["sln"] == "unknown"
    assert found.cases[0]["sln_verified"] == "no"
    assert found.cases[1]["sln_verified"] == "yes"


def test_empty_cells_are_unknown(folder):
    names = ("size_cm", "age", "menopause", "histology", "grade", "subtype", "birads")
    rewrite(folder, lambda rows: rows[0].update(dict.fromkeys(names, "")))
    row = snapshot.load(folder).rows[0]

    assert [getattr(row, name) for name in names] == [None] * len(names)
    assert row.mri_aln in {0, 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_from_a_spreadsheet_is_the_same_table(folder, encoding):
    before = snapshot.load(folder).id
    path = folder / "cohort.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    cells = [
        ";".join(
            cell.replace(".", ",")
            if at and cell[:1].isdigit() and cell.count(".") == 1
            else cell
            for cell in line
        )
        for at, line in enumerate(lines)
    ]
    path.write_text("\r\n".join(cells) + "\r\n\r\n", encoding=encoding)

    assert snapshot.load(folder).id == before


def test_a_workbook_is_refused_with_what_to_do(folder):
    (folder / "cohort.csv").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(SettingsError, match="is a workbook: save it as CSV"):
        snapshot.load(folder)


def test_a_line_of_another_length_is_refused(folder):
    path = folder / "cohort.csv"
    path.write_text(path.read_text() + "case-0007,1\n")
    with pytest.raises(SettingsError, match="line 8 has 2 cells"):
        snapshot.load(folder)


def test_a_table_without_rows_is_refused(folder):
    path = folder / "cohort.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(SettingsError, match="no rows"):
        cohort.read(folder)


@pytest.mark.parametrize("label", ["0", "1", "unknown"])
def test_one_class_only_cannot_be_trained_on(folder, label):
    def all_alike(rows):
        for row in rows:
            row["sln"] = label

    rewrite(folder, all_alike)
    known = snapshot.load(folder).of_role("development").crops.for_stage(Stage.SLN)
    with pytest.raises(SettingsError, match="SLN: 0 development cases of the rarer"):
        check_enough(Stage.SLN, "development", known)
