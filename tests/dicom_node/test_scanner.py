"""Names of scanners are from a list, whatever a header says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node import scanner


def said(maker, model) -> str:
    dataset = Dataset()
    if maker is not None:
        dataset.Manufacturer = maker
    if model is not None:
        dataset.ManufacturerModelName = model
    return scanner.name(dataset)


@pytest.mark.parametrize(
    ("maker", "model", "name"),
    [
        ("SIEMENS", "Aera", "Siemens Aera"),
        ("Siemens Healthineers", "MAGNETOM Vida", "Siemens Vida"),
        ("UNKNOWN", "TrioTim", "Siemens Trio"),
        ("SIEMENS", "Biograph_mMR", "Siemens Biograph mMR"),
        ("GE MEDICAL SYSTEMS", "SIGNA HDxt", "GE Signa HDxt"),
        ("GE MEDICAL SYSTEMS", "DISCOVERY MR750w", "GE Discovery MR750"),
        ("Philips Medical Systems", "Ingenia", "Philips Ingenia"),
        ("TOSHIBA", "Titan3T", "Canon Titan"),
        ("UIH", "uMR 790", "United Imaging uMR 790"),
        ("SIEMENS", "Dr. Jane Doe's magnet", "Siemens other"),
        ("Jane Doe", "Room 3", "other"),
        ("Ginger Geist", None, "other"),
        (None, None, "unknown"),
        ("", "", "unknown"),
    ],
)
def test_known_words_make_the_name(maker, model, name):
    assert said(maker, model) == name


NAMES = {scanner.UNKNOWN, scanner.OTHER} | {
    f"{maker} {model}"
    for maker, models in scanner.MODELS.items()
    for model in (*models, scanner.OTHER)
}


@given(st.text(max_size=64), st.text(max_size=64))
def test_no_free_text_gets_through(maker, model):
    assert said(maker.replace("\\", ""), model.replace("\\", "")) in NAMES
