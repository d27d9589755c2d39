import csv
from collections.abc import Sequence

import numpy as np
import pytest

from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.findings import Laterality
from dicom_node.images import StudyObjects, read_study
from dicom_node.phases import phase_index
from dicom_node.roi import RoiReading, read_rois
from dicom_node.selection import select
from dicom_node.study import Reason
from tests import dicom_objects
from tests.dicom_objects import (
    BOX,
    dynamic_series,
    gsps_rectangle,
    mr_slice,
    sr_rectangle,
)

RIGHT = (-150.0, -60.0, 0.0)
NOTHING_MARKED = RoiReading()


@pytest.fixture
def choose(tmp_path):
    """Store a study with its marks, read it as the worker does, and choose."""

    def run(images: Sequence, marks: Sequence = (), phase: str = "post-contrast 1"):
        objects = read_study(dicom_objects.store(tmp_path, [*images, *marks]))
        return select(objects, read_rois(objects.documents), phase)

    return run


def held(choose, *args) -> StudyHeldError:
    with pytest.raises(StudyHeldError) as caught:
        choose(*args)
    return caught.value


def test_a_mark_on_a_late_phase_moves_to_the_first_after_contrast(choose):
    images = dynamic_series(phases=4)
    marked = images[3 * 3 + 1]
    (one,) = choose(images, [sr_rectangle(marked)])
    assert one.roi.sop_instance_uid == marked.SOPInstanceUID
    assert one.sop_instance_uid == images[3 + 1].SOPInstanceUID
    assert one.phase == "post-contrast 1"
    assert one.roi.box == BOX
    assert "phase 4 of 4" in " ".join(one.why)


@pytest.mark.parametrize(
    ("phase", "place"),
    [("pre", 0), ("pre-contrast", 0), ("post-1", 1), ("post-contrast 3", 3)],
)
def test_the_phase_of_the_model_decides(choose, phase, place):
    images = dynamic_series(phases=4)
    (one,) = choose(images, [sr_rectangle(images[4])], phase)
    assert one.sop_instance_uid == images[3 * place + 1].SOPInstanceUID


def test_a_study_with_too_few_phases_waits(choose):
    images = dynamic_series(phases=2)
    problem = held(choose, images, [sr_rectangle(images[0])], "post-5")
    assert problem.reason is Reason.NO_DCE_PHASE
    assert "post-contrast 5" in problem.detail


def test_an_unknown_name_of_a_phase_is_an_error():
    with pytest.raises(ValueError, match="names no phase"):
        phase_index("arterial")


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("TemporalPositionIdentifier", [3, 2, 1]),
        ("AcquisitionTime", ["100300", "100200", "100100"]),
        ("TriggerTime", [300.0, 200.0, 100.0]),
    ],
)
def test_what_tells_time_goes_before_the_numbers(choose, keyword, values):
    images = dynamic_series(phases=3, slices=1)
    for image, value in zip(images, values, strict=True):
        setattr(image, keyword, value)
    (one,) = choose(images, [sr_rectangle(images[0])], "pre")
    assert one.sop_instance_uid == images[2].SOPInstanceUID


AROUND_MIDNIGHT = [
    ("20260304", "235800"),
    ("20260304", "235930"),
    ("20260305", "000100"),
]


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("form", ["one", "two", "series"])
def test_phases_that_cross_midnight_keep_their_order(choose, form, place):
    images = dynamic_series(phases=3, slices=1)[::-1]  # the numbers would mislead
    for image, (day, clock) in zip(images, AROUND_MIDNIGHT, strict=True):
        if form == "one":
            image.AcquisitionDateTime = day + clock
        else:
            setattr(
                image, f"{'Series' if form == 'series' else 'Acquisition'}Date", day
            )
            image.AcquisitionTime = clock
    phase = ["pre", "post-1", "post-2"][place]
    (one,) = choose(images, [sr_rectangle(images[0])], phase)
    assert one.sop_instance_uid == images[place].SOPInstanceUID


@pytest.mark.parametrize("day", [None, "20260304"])
def test_times_of_one_day_that_must_have_crossed_midnight_give_way_to_numbers(
    choose, day
):
    images = dynamic_series(phases=3, slices=1)
    for image, (_, clock) in zip(images, AROUND_MIDNIGHT, strict=True):
        image.StudyDate, image.AcquisitionTime = day, clock
    (one,) = choose(images, [sr_rectangle(images[2])], "pre")
    assert one.sop_instance_uid == images[0].SOPInstanceUID


def test_times_that_crossed_midnight_alone_are_a_matter_for_a_person(choose):
    images = dynamic_series(phases=3, slices=1)
    for image, (_, clock) in zip(images, AROUND_MIDNIGHT, strict=True):
        image.AcquisitionTime = clock
        image.StudyDate = image.AcquisitionNumber = image.SeriesNumber = None
    problem = held(choose, images, [sr_rectangle(images[2])])
    assert problem.reason is Reason.PHASE_AMBIGUOUS


def test_dates_that_differ_by_processing_do_not_order_phases(choose):
    images = dynamic_series(phases=3, slices=1)
    days, clocks = ["20260306", "20260305", "20260304"], ["100100", "100200", "100300"]
    for image, day, clock in zip(images, days, clocks, strict=True):
        image.ContentDate, image.AcquisitionTime = day, clock
    (one,) = choose(images, [sr_rectangle(images[2])], "pre")
    assert one.sop_instance_uid == images[0].SOPInstanceUID


def test_phases_may_lie_in_one_series(choose):
    images = [
        mr_slice(position=(20.0, -60.0, z), acquisition_number=1 + phase)
        for phase in range(3)
        for z in (0.0, 2.0)
    ]
    (one,) = choose(images, [sr_rectangle(images[5])])
    assert one.sop_instance_uid == images[3].SOPInstanceUID


def test_phases_that_nothing_orders_are_a_matter_for_a_person(choose):
    images = [
        mr_slice(SOPInstanceUID=f"1.2.3.{n}", acquisition_number=None) for n in range(2)
    ]
    problem = held(choose, images, [sr_rectangle(images[0])])
    assert problem.reason is Reason.PHASE_AMBIGUOUS


def test_a_dynamic_series_without_its_beginning_is_not_guessed(choose):
    images = dynamic_series(phases=3, slices=1)
    for n, image in enumerate(images):
        image.TemporalPositionIdentifier = n + 2
    problem = held(choose, images, [sr_rectangle(images[0])])
    assert problem.reason is Reason.PHASE_AMBIGUOUS


def test_the_only_phase_is_used_as_marked(choose):
    image = mr_slice(acquisition_number=4)
    (one,) = choose([image], [gsps_rectangle([image])])
    assert one.sop_instance_uid == image.SOPInstanceUID
    assert one.phase == "as marked"
    assert "used as marked" in " ".join(one.why)


def test_a_mark_beside_the_dynamic_series_waits(choose):
    other = mr_slice(series_uid="1.2.9", series_number=90, RepetitionTime=9.0)
    problem = held(choose, [*dynamic_series(), other], [sr_rectangle(other)])
    assert problem.reason is Reason.NO_DCE_PHASE


def test_a_mark_on_a_spin_echo_waits(choose):
    image = mr_slice(ScanningSequence="SE")
    problem = held(choose, [image], [sr_rectangle(image)])
    assert problem.reason is Reason.NO_DCE_PHASE


def test_a_mark_on_a_subtraction_moves_to_its_source(choose):
    images = dynamic_series()
    subtraction = mr_slice(
        series_uid="1.2.9",
        series_number=30,
        position=(20.0, -60.0, 2.0),
        ImageType=["ORIGINAL", "SECONDARY", "M", "SUB"],
    )
    (one,) = choose([*images, subtraction], [sr_rectangle(subtraction)])
    assert one.sop_instance_uid == images[4].SOPInstanceUID
    assert "subtraction" in " ".join(one.why)


def test_a_subtraction_without_its_source_waits(choose):
    image = mr_slice(ImageType=["DERIVED", "SECONDARY", "SUB"])
    problem = held(choose, [image], [sr_rectangle(image)])
    assert problem.reason is Reason.NO_DCE_PHASE


@pytest.mark.parametrize("word", ["MIP_SAG", "MPR", "ADC", "WI", "TRACEW"])
def test_projections_and_maps_are_refused(choose, word):
    image = mr_slice(ImageType=["ORIGINAL", "SECONDARY", word])
    problem = held(choose, [image], [sr_rectangle(image)])
    assert problem.reason is Reason.NO_DCE_PHASE
    assert "needed on an original slice" in problem.detail


def test_the_largest_area_in_square_millimetres_wins(choose):
    fine = mr_slice(PixelSpacing=[0.5, 0.5])
    coarse = mr_slice(series_uid="1.2.9", position=(20.0, -60.0, 8.0))
    many_pixels, much_tissue = (10.0, 10.0, 50.0, 50.0), (10.0, 10.0, 45.0, 40.0)
    (one,) = choose(
        [fine, coarse],
        [sr_rectangle(fine, many_pixels), sr_rectangle(coarse, much_tissue)],
    )
    assert one.roi.box == much_tissue
    assert (one.area_mm2, one.candidates) == (1050.0, 2)
    assert "larger than the next of 400 mm²" in one.why[0]


def test_of_equal_rectangles_the_middle_slice_wins(choose):
    images = dynamic_series(phases=1, slices=5)
    (one,) = choose(images, [sr_rectangle(image) for image in images])
    assert one.sop_instance_uid == images[2].SOPInstanceUID


def test_each_side_is_a_case_of_its_own(choose):
    left, right = mr_slice(), mr_slice(series_uid="1.2.9", position=RIGHT)
    chosen = choose([left, right], [sr_rectangle(left), sr_rectangle(right)])
    assert [one.laterality for one in chosen] == [Laterality.LEFT, Laterality.RIGHT]
    assert all(one.laterality_derived for one in chosen)


def test_a_side_in_the_header_is_not_derived(choose):
    image = mr_slice(ImageLaterality="L")
    (one,) = choose([image], [sr_rectangle(image)])
    assert (one.laterality, one.laterality_derived) == (Laterality.LEFT, False)


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageLaterality": "R"},
        {"position": (-40.0, -60.0, 0.0)},
        {"ImagePositionPatient": None},
    ],
    ids=["header and position disagree", "near the midline", "no position"],
)
def test_a_side_is_never_guessed(choose, attributes):
    image = mr_slice(**attributes)
    problem = held(choose, [image], [sr_rectangle(image)])
    assert problem.reason is Reason.LATERALITY_UNKNOWN


def test_the_side_follows_the_patient_not_the_screen(choose):
    mirrored = mr_slice(
        position=(120.0, -60.0, 0.0), ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]
    )
    (one,) = choose([mirrored], [sr_rectangle(mirrored)])
    assert one.laterality is Laterality.LEFT


def test_a_little_outside_is_cut_off(choose):
    image = mr_slice()
    (one,) = choose([image], [sr_rectangle(image, (-0.5, 10.0, 40.0, 40.0))])
    assert one.roi.box == (0.0, 10.0, 40.0, 40.0)
    assert "cut off" in " ".join(one.why)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((-20.0, 10.0, 40.0, 40.0), Reason.ROI_OUTSIDE_IMAGE),
        ((200.0, 10.0, 240.0, 40.0), Reason.ROI_OUTSIDE_IMAGE),
        ((30.0, 10.0, 33.0, 40.0), Reason.QUALITY),
    ],
)
def test_rectangles_outside_or_too_small_wait(choose, box, reason):
    image = mr_slice()
    assert held(choose, [image], [sr_rectangle(image, box)]).reason is reason


def test_a_mark_on_an_image_that_is_not_there_waits(choose):
    absent = mr_slice(series_uid="1.2.9")
    problem = held(choose, [mr_slice()], [sr_rectangle(absent)])
    assert problem.reason is Reason.ROI_IMAGE_MISSING
    assert absent.SOPInstanceUID in problem.detail


def test_what_cannot_be_used_is_told_beside_what_is(choose):
    image, absent = mr_slice(), mr_slice(series_uid="1.2.9")
    (one,) = choose([image], [sr_rectangle(image), sr_rectangle(absent)])
    assert one.why[-1].startswith("Ruled out: A rectangle refers to image")


def test_without_a_rectangle_the_reason_names_what_was_ruled_out(choose):
    image = mr_slice()
    state = gsps_rectangle([image])
    graphic = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    graphic.GraphicType = "ELLIPSE"
    problem = held(choose, [image], [state])
    assert problem.reason is Reason.NO_ROI
    assert "an ellipse" in problem.detail


def test_no_mark_at_all_waits(choose):
    assert held(choose, [mr_slice()]).reason is Reason.NO_ROI


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": "PROSTATE", "StudyDescription": "MR"},
        {"BodyPartExamined": None, "StudyDescription": "MRI BRAIN"},
    ],
)
def test_another_region_is_ignored(choose, attributes):
    with pytest.raises(StudyIgnoredError) as caught:
        choose([mr_slice(**attributes)])
    assert caught.value.reason is Reason.NOT_BREAST_MR


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": None, "StudyDescription": None},
        {"BodyPartExamined": "CHEST", "StudyDescription": "MAMA^ROTINA"},
    ],
)
def test_a_study_that_names_no_other_region_is_taken(choose, attributes):
    image = mr_slice(**attributes)
    assert choose([image], [sr_rectangle(image)])


def test_a_study_without_mr_images_is_ignored():
    with pytest.raises(StudyIgnoredError):
        select(StudyObjects(), NOTHING_MARKED)


def test_a_study_of_which_nothing_can_be_read_waits():
    objects = StudyObjects(unreadable=("object 1.2: the file cannot be read",))
    with pytest.raises(StudyHeldError) as caught:
        select(objects, NOTHING_MARKED)
    assert caught.value.reason is Reason.UNREADABLE


@pytest.fixture(scope="module")
def multiphase(real_data):
    folder = real_data / "breast-dce-mri/multiphase-study-d1f3d33d"
    return read_study(dicom_objects.stored_folder(folder))


def mark(objects: StudyObjects, series: int, box=(220.0, 140.0, 250.0, 170.0)):
    images = [one for one in objects.images if one.series_number == series]
    marked = images[len(images) // 2]
    source = dicom_objects.dcmread(marked.path)
    return marked, read_rois([gsps_rectangle([source], box)])


@pytest.mark.parametrize("series", [8, 9, 10, 13, 17, 19])
def test_a_mark_on_any_real_phase_or_subtraction_moves_to_series_9(multiphase, series):
    assert len(multiphase.images) == 143
    marked, reading = mark(multiphase, series)
    (one,) = select(multiphase, reading)
    (analysed,) = (
        image
        for image in multiphase.images
        if image.sop_instance_uid == one.sop_instance_uid
    )
    assert analysed.series_number == 9
    np.testing.assert_allclose(analysed.position, marked.position)
    assert (one.phase, one.laterality) == ("post-contrast 1", Laterality.LEFT)


@pytest.mark.parametrize("series", [1, 11, 12, 21, 24])
def test_a_mark_beside_the_real_dynamic_series_waits(multiphase, series):
    _, reading = mark(multiphase, series, (60.0, 60.0, 90.0, 90.0))
    with pytest.raises(StudyHeldError) as caught:
        select(multiphase, reading)
    assert caught.value.reason in {Reason.NO_DCE_PHASE, Reason.LATERALITY_UNKNOWN}


def test_the_real_slabs_are_analysed_as_marked(real_data):
    folder = real_data / "breast-dce-mri"
    patients: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader((folder / "contours.csv").read_text().splitlines()):
        patients.setdefault(row["patient_id"][:8], []).append(row)
    assert len(patients) == 6
    for patient, rows in patients.items():
        objects = read_study(
            dicom_objects.stored_folder(folder / "annotated-slabs" / patient)
        )
        marks = [
            sr_rectangle(
                dicom_objects.dcmread(folder / row["file"]),
                tuple(float(row[edge]) for edge in ("x0", "y0", "x1", "y1")),
            )
            for row in rows
        ]
        (one,) = select(objects, read_rois(marks))
        largest = max(
            (float(row["x1"]) - float(row["x0"]))
            * (float(row["y1"]) - float(row["y0"]))
            for row in rows
        )
        assert one.phase == "as marked"
        assert one.candidates == len(rows)
        assert one.area_mm2 == pytest.approx(largest * 1.02272725105**2, rel=1e-4)
