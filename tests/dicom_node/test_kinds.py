from dataclasses import replace

import pytest

from dicom_node.errors import StudyHeldError
from dicom_node.findings import Laterality
from dicom_node.images import read_study
from dicom_node.kinds import ImageKind, catalogue, is_gradient_echo, kind
from dicom_node.study import Reason
from tests import dicom_objects
from tests.mr_images import chosen, frame, mark, series_of_phases, told

DERIVED = ("DERIVED", "PRIMARY", "OTHER")


@pytest.mark.parametrize(
    ("image_type", "description", "expected"),
    [
        (r"ORIGINAL\PRIMARY\M\NORM\DIS2D", "t1_fl3d_tra_dyn", ImageKind.ORIGINAL),
        (r"ORIGINAL\SECONDARY\M\NORM\DIS2D", "t1_fl3d", ImageKind.ORIGINAL),
        (r"ORIGINAL\PRIMARY\OTHER", "Ax VIBRANT MPh", ImageKind.ORIGINAL),
        (r"ORIGINAL\PRIMARY\M_FFE\M\FFE", "dyn_eTHRIVE", ImageKind.ORIGINAL),
        (r"DERIVED\PRIMARY\W\W\DERIVED", "dyn mDIXON", ImageKind.ORIGINAL),
        (r"DERIVED\PRIMARY\DIXON\WATER", "Ax LAVA-Flex", ImageKind.ORIGINAL),
        (r"DERIVED\PRIMARY\DIXON\FAT", "Ax LAVA-Flex", ImageKind.DERIVED),
        (r"ORIGINAL\PRIMARY\FAT_SAT", "dyn fat sat", ImageKind.ORIGINAL),
        (r"ORIGINAL\PRIMARY\T1\NONE", "", ImageKind.ORIGINAL),
        (r"ORIGINAL\PRIMARY\M\ND", "t1 w/o fs", ImageKind.ORIGINAL),
        (r"ORIGINAL\SECONDARY\M\DIS2D\SUB", "x_SUB", ImageKind.SUBTRACTION),
        (r"DERIVED\SECONDARY\SUBTRACT", "", ImageKind.SUBTRACTION),
        (r"DERIVED\PRIMARY\OTHER", "SUB: (Ph2-Ph1)", ImageKind.SUBTRACTION),
        (r"DERIVED\PRIMARY\DYNAMIC\SUBTRACTION", "", ImageKind.SUBTRACTION),
        (r"DERIVED\SECONDARY", "subtracted post 1", ImageKind.SUBTRACTION),
        (r"ORIGINAL\SECONDARY\MIP_SAG\SUB", "x_SUB_MIP_SAG", ImageKind.PROJECTION),
        (r"DERIVED\SECONDARY\PROJECTION IMAGE", "", ImageKind.PROJECTION),
        (r"DERIVED\SECONDARY\REFORMATTED\AVERAGE", "", ImageKind.PROJECTION),
        (r"DERIVED\PRIMARY\DYNAMIC\MAXIMUM", "", ImageKind.PROJECTION),
        (r"DERIVED\SECONDARY\MAX_IP", "", ImageKind.PROJECTION),
        (
            r"DERIVED\SECONDARY\MPR\CSA MPR\\CSAPARALLEL",
            "marked lesion<MPR Collection>",
            ImageKind.PROJECTION,
        ),
        (r"DERIVED\SECONDARY\DIFFUSION\ADC", "ep2d_ADC", ImageKind.DERIVED),
        (r"ORIGINAL\SECONDARY\M\DIS2D\WI", "x_WI", ImageKind.DERIVED),
        (r"ORIGINAL\SECONDARY\M\DIS2D\PEI", "x_PEI", ImageKind.DERIVED),
        (r"DERIVED\PRIMARY", "Wash-out map", ImageKind.DERIVED),
        (r"DERIVED\SECONDARY\SER", "", ImageKind.DERIVED),
        (r"ORIGINAL\PRIMARY\M\ND", "localizer", ImageKind.LOCALIZER),
        (r"ORIGINAL\PRIMARY\OTHER", "3-pl loc", ImageKind.LOCALIZER),
        (r"ORIGINAL\PRIMARY\M_FFE", "Survey_BREAST", ImageKind.LOCALIZER),
        (r"ORIGINAL\PRIMARY\M\ND", "AAHScout", ImageKind.LOCALIZER),
        (r"DERIVED\PRIMARY\OTHER", "Ax VIBRANT", ImageKind.PROCESSED),
        (r"DERIVED\SECONDARY\OTHER", "", ImageKind.PROCESSED),
    ],
)
def test_the_words_of_the_vendors(image_type, description, expected):
    image = frame(image_type=tuple(image_type.split("\\")), description=description)
    assert kind(image) is expected


@pytest.mark.parametrize(
    "derivation",
    ["JPEG 2000 irreversible (lossy) 18:1", "Lossless JPEG compression", "anonymized"],
)
def test_what_only_re_encodes_keeps_an_image_original(derivation):
    image = frame(image_type=DERIVED, derivation=derivation)
    assert kind(image) is ImageKind.ORIGINAL


def test_a_derivation_may_name_the_subtraction():
    image = frame(image_type=DERIVED, derivation="Pixel by pixel subtraction")
    assert kind(image) is ImageKind.SUBTRACTION


def test_a_dynamic_series_that_is_derived_throughout_is_analysed():
    images = series_of_phases(image_type=DERIVED)
    (one,) = chosen(images, [mark(images[-2])])
    assert one.sop_instance_uid == images[4].sop_instance_uid
    assert "says DERIVED" in " ".join(one.why)


def test_a_phase_that_was_compressed_is_still_one():
    images = series_of_phases()
    compressed = [
        replace(
            one, image_type=("DERIVED", *one.image_type[1:]), derivation="lossy JPEG"
        )
        for one in images[:3]
    ]
    (one,) = chosen([*compressed, *images[3:]], [mark(images[7])])
    assert one.sop_instance_uid == images[4].sop_instance_uid


@pytest.mark.parametrize("second", ["PRIMARY", "SECONDARY"])
def test_an_unnamed_derived_slab_beside_its_originals_moves_to_them(second):
    images = series_of_phases()
    subtraction = [
        frame(90, z, image_type=("DERIVED", second, "OTHER")) for z in (0.0, 2.0, 4.0)
    ]
    (one,) = chosen([*images, *subtraction], [mark(subtraction[1])])
    assert one.sop_instance_uid == images[4].sop_instance_uid
    assert "does not say how it was made" in " ".join(one.why)


def test_an_unnamed_derived_slice_alone_could_be_a_projection():
    images = series_of_phases()
    alone = frame(90, 2.0, image_type=DERIVED)
    with pytest.raises(StudyHeldError) as caught:
        chosen([*images, alone], [mark(alone)])
    assert caught.value.reason is Reason.NO_DCE_PHASE


@pytest.mark.parametrize(
    ("second", "expected"),
    [("PRIMARY", ImageKind.ORIGINAL), ("SECONDARY", ImageKind.DERIVED)],
)
def test_a_lone_derived_slice_counts_unless_a_workstation_made_it(second, expected):
    image = frame(image_type=("DERIVED", second, "OTHER"))
    assert catalogue([image]).kind(image) is expected


def test_slices_in_several_planes_are_a_localizer_whatever_their_name():
    axial = frame(1, description="")
    sagittal = replace(
        axial, sop_instance_uid="1.2.3.4", orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    )
    with pytest.raises(StudyHeldError) as caught:
        chosen([axial, sagittal], [mark(axial)])
    assert "a localizer" in caught.value.detail


@pytest.mark.parametrize(
    ("values", "may"),
    [
        ({"scanning_sequence": ("GR",)}, True),
        ({"scanning_sequence": ("GR", "RM")}, True),
        ({"scanning_sequence": ("RM",)}, True),
        ({"scanning_sequence": ("SE",)}, False),
        ({"scanning_sequence": ("EP", "GR")}, False),
        ({"scanning_sequence": ()}, True),
        ({"scanning_sequence": (), "repetition_time": 5000.0}, False),
        ({"scanning_sequence": (), "echo_time": 80.0}, False),
        ({"scanning_sequence": (), "description": "T2_TSE_tra"}, False),
        ({"scanning_sequence": (), "description": "ep2d_diff"}, False),
        ({"scanning_sequence": (), "description": "dyn T1 fs"}, True),
    ],
)
def test_only_a_gradient_echo_is_of_a_dynamic_series(values, may):
    assert is_gradient_echo(frame(**values)) is may


@pytest.mark.parametrize(
    ("sequence", "planar", "expected"),
    [
        ("GRADIENT", "NO", ("GR",)),
        ("SPIN", "NO", ("SE",)),
        ("BOTH", "YES", ("EP", "GR", "SE")),
    ],
)
def test_an_enhanced_object_names_its_echoes_in_words_of_its_own(
    tmp_path, sequence, planar, expected
):
    image = dicom_objects.mr_slice(
        ScanningSequence=None,
        EchoPulseSequence=sequence,
        EchoPlanarPulseSequence=planar,
        NumberOfTemporalPositions=5,
        DerivationDescription="none",
    )
    (read,) = read_study(dicom_objects.store(tmp_path, [image])).images
    assert read.scanning_sequence == expected
    assert (read.temporal_positions, read.derivation) == (5, "none")


@pytest.fixture(scope="module")
def multiphase(real_data):
    folder = real_data / "breast-dce-mri/multiphase-study-d1f3d33d"
    return read_study(dicom_objects.stored_folder(folder)).images


MARKED = {  # series: what the sentence names; None: analysed
    1: "a localizer",
    3: "no phase of a dynamic series",
    4: "no phase of a dynamic series",
    5: "no phase of a dynamic series",
    6: "a derived map",
    7: "a derived map",
    8: None,
    9: None,
    10: None,
    11: "a projection or reformat",
    12: "a projection or reformat",
    13: None,
    14: None,
    15: None,
    16: None,
    17: None,
    18: None,
    19: None,
    20: None,
    21: "a derived map",
    22: "a derived map",
    23: "a derived map",
    24: "beside the dynamic series",
}


@pytest.mark.parametrize("series", MARKED)
def test_every_series_of_the_real_study_is_taken_or_refused_for_its_reason(
    multiphase, series
):
    marked = [one for one in multiphase if one.series_number == series]
    place = marked[len(marked) // 2]
    side = place.columns * 0.65
    box = (side, place.rows * 0.4, side + 20.0, place.rows * 0.4 + 20.0)

    found = told(multiphase, [mark(place, box)])

    if MARKED[series] is not None:
        assert found.stop.reason is Reason.NO_DCE_PHASE
        assert MARKED[series] in found.marks[0].why
        return
    (one,) = found.chosen
    (analysed,) = (x for x in multiphase if x.sop_instance_uid == one.sop_instance_uid)
    assert (analysed.series_number, one.phase) == (9, "post-contrast 1")
    assert one.laterality is Laterality.LEFT
    assert analysed.position == pytest.approx(place.position)


def test_the_real_study_has_a_kind_for_every_series(multiphase):
    study = catalogue(multiphase)
    kinds = {one.series_number: study.kind(one) for one in multiphase}
    assert {n for n, found in kinds.items() if found is ImageKind.ORIGINAL} == {
        *(3, 4, 5, 8, 9, 13, 15, 17, 19, 24)
    }
    assert {n for n, found in kinds.items() if found is ImageKind.SUBTRACTION} == {
        *(10, 14, 16, 18, 20)
    }
