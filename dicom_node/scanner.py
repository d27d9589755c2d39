"""The scanner of an image as one of a fixed list of names, for statistics.

Manufacturer and model name are free text, and people write into it; so a name is made
of known words alone. That bounds the number of names too.
"""

import re
from typing import Final

from pydicom import Dataset

from dicom_node.attributes import text

UNKNOWN: Final = "unknown"
OTHER: Final = "other"

MANUFACTURERS: Final = {
    "Siemens": r"siemens",
    "GE": r"\bge\b|general electric",
    "Philips": r"philips|picker|marconi",
    "Canon": r"canon|toshiba",
    "Fujifilm": r"fuji|hitachi",
    "United Imaging": r"united imaging|\buih\b",
}
"""Names as they are today, by what headers say."""

MODELS: Final = {
    "Siemens": (
        *("Aera", "Altea", "Amira", "Avanto", "Biograph mMR", "Cima", "Concerto"),
        *("Espree", "Essenza", "Flow", "Free.Max", "Harmony", "Impact", "Lumina"),
        *("Prisma", "Sempra", "Skyra", "Sola", "Sonata", "Spectra", "Symphony"),
        *("Terra", "Trio", "Verio", "Vida", "Vision", "Viato"),
    ),
    "GE": (
        *("Architect", "Artist", "Brivo", "Champion", "Creator", "Discovery MR450"),
        *("Discovery MR750", "Excite", "Explorer", "Genesis Signa", "Hero"),
        *("Optima MR360", "Optima MR450", "Pioneer", "Premier", "Signa HDxt"),
        *("Signa HDx", "Signa HDe", "Victor", "Voyager", "Signa"),
    ),
    "Philips": (
        *("Achieva", "Ambition", "Elition", "Evolution", "Gyroscan", "Ingenia"),
        *("Intera", "MR 5300", "MR 7700", "Multiva", "Panorama", "Prodiva"),
    ),
    "Canon": (*("Elan", "Excelart", "Fortian", "Galan", "Orian", "Titan", "Vantage"),),
    "Fujifilm": ("Airis", "Altaire", "Aperto", "Echelon", "Oasis", "Velocity"),
    "United Imaging": (
        *("uMR 560", "uMR 570", "uMR 580", "uMR 588", "uMR 660", "uMR 670"),
        *("uMR 680", "uMR 770", "uMR 780", "uMR 790", "uMR 880", "uMR 890"),
        *("uMR Omega", "uMR Jupiter", "uPMR 790"),
    ),
}
"""Words of model names, the longer before the shorter that it begins with."""


def name(dataset: Dataset) -> str:
    """Return "MANUFACTURER MODEL"; unknown words become "other", none "unknown".

    A model alone tells its manufacturer, whose name de-identification may take away.
    """
    said = _plain(text(dataset, "Manufacturer"))
    model = _plain(text(dataset, "ManufacturerModelName"))
    if not said and not model:
        return UNKNOWN
    makers = [each for each, words in MANUFACTURERS.items() if re.search(words, said)]
    for maker in makers or MODELS:
        for known in MODELS[maker]:
            if re.search(rf"\b{re.escape(_plain(known))}", model):
                return f"{maker} {known}"
    return f"{makers[0]} {OTHER}" if makers else OTHER


def _plain(words: str) -> str:
    return re.sub(r"[\s_\-]+", " ", words).strip().lower()
