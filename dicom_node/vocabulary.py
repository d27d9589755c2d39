"""What words and codes of a pathology system mean; nothing is guessed.

A text counts only when all of it is in the table, after Unicode normalisation, case
folding and joining of blanks. A code counts as CODE^SYSTEM. A site adds its own words
in a TOML file:

    observations = ["sln histology", "SLNH^L"]
    answers = ["result"]

    [results]
    "metastasis present" = "positive"

    [sides]
    "axilla li" = "L"
"""

import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dicom_node.errors import SettingsError
from dicom_node.findings import Deposit, Laterality, Slnd

SYSTEMS: Final = {
    "snomed": "sct",
    "snomed-ct": "sct",
    "snomedct": "sct",
    "snomed ct": "sct",
    "2.16.840.1.113883.6.96": "sct",
    "loinc": "ln",
    "2.16.840.1.113883.6.1": "ln",
}
"""Other names of coding systems (HL7 table 0396)."""

RESULTS: Final = {
    "positive": (
        *("positive", "pos", "positiv", "10828004^SCT", "LA6576-8^LN"),
        *("metastasis", "metastases", "metastasis present", "metastases present"),
        *("positive for metastasis", "metastatic", "metastase", "metastasen"),
        *("metastase nachgewiesen", "metastasen nachgewiesen"),
        *("pN1", "pN1(sn)", "pN2", "pN2(sn)", "pN3", "pN3(sn)"),
    ),
    "negative": (
        *("negative", "neg", "negativ", "260385009^SCT", "LA6577-6^LN"),
        *("no metastasis", "no metastases", "metastasis absent", "metastases absent"),
        *("negative for metastasis", "free of metastasis", "tumorfrei"),
        *("keine metastase", "keine metastasen", "metastasenfrei"),
        *("pN0", "pN0(sn)", "pN0(i-)", "pN0(i-)(sn)", "pN0(i-) (sn)"),
    ),
    "macro": (
        *("macrometastasis", "macrometastases", "makrometastase", "makrometastasen"),
        *("pN1a", "pN1a(sn)", "pN2a", "pN2a(sn)", "pN3a", "pN3a(sn)"),
    ),
    "micro": (
        *("micrometastasis", "micrometastases", "mikrometastase", "mikrometastasen"),
        *("pN1mi", "pN1(mi)", "pN1mi(sn)", "pN1(mi)(sn)"),
    ),
    "itc": (
        *("isolated tumor cells", "isolated tumour cells", "itc"),
        *("isolierte tumorzellen", "pN0(i+)", "pN0(i+)(sn)", "pN0(i+) (sn)"),
    ),
}
"""What is understood without a table of the site; post-neoadjuvant ypN is not."""

SIDES: Final = {
    "L": (
        *("left", "l", "lt", "links", "7771000^SCT", "80248007^SCT"),
        *("left breast", "left axilla", "axilla left", "axilla, left"),
        *("linke mamma", "mamma links", "linke axilla", "axilla links"),
    ),
    "R": (
        *("right", "r", "rt", "rechts", "24028007^SCT", "73056007^SCT"),
        *("right breast", "right axilla", "axilla right", "axilla, right"),
        *("rechte mamma", "mamma rechts", "rechte axilla", "axilla rechts"),
    ),
}

OBSERVATIONS: Final = (
    *("396487001^SCT", "slnd", "slnb", "sln", "sentinel"),
    *("sentinel lymph node", "sentinel lymph nodes", "sentinel node"),
    *("sentinel lymph node biopsy", "sentinel lymph node dissection"),
    *("sentinel node biopsy", "sentinel node dissection"),
    *("sentinel lymph node status", "sentinel lymph node metastasis"),
    *("sentinel-lymphknoten", "sentinellymphknoten", "wächterlymphknoten"),
)
ANSWERS: Final = (
    *("result", "final result", "diagnosis", "histology", "status"),
    *("ergebnis", "befund", "diagnose", "histologie"),
)
KEYS: Final = frozenset({"observations", "answers", "results", "sides"})


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one word says: a result, or a deposit whose result the site's rule gives."""

    result: Slnd | None = None
    deposit: Deposit | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that are understood, by their normal form.

    `observations` name a sentinel node result as order (OBR-4) or observation
    (OBX-3); `answers` name it only inside such an order. `itc_is_positive` is the
    site's rule for isolated tumour cells.
    """

    observations: frozenset[str]
    answers: frozenset[str]
    results: Mapping[str, Meaning]
    sides: Mapping[str, Laterality]
    itc_is_positive: bool = False


def normal(word: str) -> str:
    """Return the form in which a text or CODE^SYSTEM is looked up."""
    folded = " ".join(unicodedata.normalize("NFKC", word).casefold().split())
    code, hat, system = folded.partition("^")
    if not hat:
        return folded.rstrip(".:; ")
    return f"{code.strip()}^{SYSTEMS.get(system.strip(), system.strip())}"


def _meaning(word: str) -> Meaning:
    if word in set(Deposit):
        return Meaning(deposit=Deposit(word))
    return Meaning(result=Slnd(word))


def _normal(words: Iterable[str]) -> frozenset[str]:
    return frozenset(normal(word) for word in words)


def default() -> Vocabulary:
    """Return the words that are understood at every site, English and German."""
    return Vocabulary(
        observations=_normal(OBSERVATIONS),
        answers=_normal(ANSWERS),
        results={
            normal(word): _meaning(said)
            for said, words in RESULTS.items()
            for word in words
        },
        sides={
            normal(word): Laterality(side)
            for side, words in SIDES.items()
            for word in words
        },
    )


def load(path: Path | None, *, itc_is_positive: bool = False) -> Vocabulary:
    """Read a site's words and add them to the default; its own meaning wins.

    Raises:
        SettingsError: The file cannot be read, or a word has no known meaning.
    """
    base = replace(default(), itc_is_positive=itc_is_positive)
    if path is None:
        return base
    try:
        with path.open("rb") as stream:
            table = tomllib.load(stream)
        return _extended(base, table)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} is no table of words: {error}. Results are positive, negative, "
            "macro, micro or itc; sides are L or R"
        ) from error


def _extended(base: Vocabulary, table: Mapping[str, object]) -> Vocabulary:
    unknown = set(table) - KEYS
    if unknown:
        raise ValueError(f"unknown part {', '.join(sorted(unknown))}")
    results = {
        normal(word): _site_meaning(str(said))
        for word, said in _words(table, "results").items()
    }
    sides = {
        normal(word): Laterality(said) for word, said in _words(table, "sides").items()
    }
    return replace(
        base,
        observations=base.observations | _normal(_list(table, "observations")),
        answers=base.answers | _normal(_list(table, "answers")),
        results={**base.results, **results},
        sides={**base.sides, **sides},
    )


def _site_meaning(said: str) -> Meaning:
    """Read one meaning; a word cannot withdraw, only a status can (OBX-11)."""
    if said == Slnd.WITHDRAWN:
        raise ValueError("a word cannot mean withdrawn")
    return _meaning(said)


def _words(table: Mapping[str, object], name: str) -> Mapping[str, str]:
    words = table.get(name, {})
    if not isinstance(words, Mapping):
        raise TypeError(f"{name} is not a table")
    return words


def _list(table: Mapping[str, object], name: str) -> list[str]:
    words = table.get(name, [])
    if not (isinstance(words, list) and all(isinstance(one, str) for one in words)):
        raise TypeError(f"{name} is not a list of texts")
    return words
