"""Codes of the report: the standard's, and ours where the standard has none.

The private scheme 99SENTINODE is declared in every object that uses it. A code keeps
its meaning for ever and is never used again for another.
"""

from typing import Final

from pydicom.sr.coding import Code

from dicom_node.findings import (
    Laterality,
    Pathway,
    Risk,
    Slnd,
    Stage,
    StageStatus,
)
from dicom_node.own import SCHEME

SCHEME_NAME: Final = "Sentinode codes"
SCHEME_VERSION: Final = "1"
SCHEME_RESPONSIBLE: Final = "Sentinode"


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


REPORT_TITLE: Final = Code("126000", "DCM", "Imaging Measurement Report")
PROCEDURE: Final = Code("25056-3", "LN", "MRI unspecified body region")
DEVICE: Final = Code("121007", "DCM", "Device")
PERSON: Final = Code("121006", "DCM", "Person")
READER: Final = Code("C28747", "NCIt", "Reader")
ARTIFICIAL_INTELLIGENCE: Final = Code("123110", "DCM", "Artificial Intelligence")
LESION: Final = Code("52988006", "SCT", "Lesion")
BREAST: Final = Code("76752008", "SCT", "Breast")
BOUNDED_BY: Final = Code("75958009", "SCT", "Bounded by")
MEASUREMENT_GROUP: Final = Code("125007", "DCM", "Measurement Group")
PERCENT: Final = Code("%", "UCUM", "Percent")
SENTINEL_BIOPSY: Final = Code("396487001", "SCT", "Sentinel lymph node biopsy")
SOURCE_IMAGE: Final = Code(
    "121322", "DCM", "Source image for image processing operation"
)
ACQUISITION: Final = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING: Final = Code("109102", "DCM", "Processing Equipment")
CLASS_ACTIVATION: Final = Code("130402", "DCM", "Class activation")
NO_UNITS: Final = Code("1", "UCUM", "no units")

SIDES: Final = {
    Laterality.LEFT: Code("7771000", "SCT", "Left"),
    Laterality.RIGHT: Code("24028007", "SCT", "Right"),
}
RISKS: Final = {
    Risk.HIGH: Code("15508007", "SCT", "High risk"),
    Risk.LOW: Code("75976002", "SCT", "Low risk"),
}
BIOPSY_RESULTS: Final = {
    Slnd.POSITIVE: Code("10828004", "SCT", "Positive"),
    Slnd.NEGATIVE: Code("260385009", "SCT", "Negative"),
}

PROBABILITY: Final = {
    Stage.SLN: _own("SLN-PROB", "Probability of sentinel lymph node metastasis"),
    Stage.NSLN: _own("NSLN-PROB", "Probability of non-sentinel lymph node metastasis"),
}
RISK: Final = {
    Stage.SLN: _own("SLN-RISK", "Risk group for sentinel lymph node metastasis"),
    Stage.NSLN: _own("NSLN-RISK", "Risk group for non-sentinel lymph node metastasis"),
}
THRESHOLD: Final = _own("THRESHOLD", "Threshold of the risk groups")
STAGE_STATUS: Final = _own("STAGE-STATUS", "Status of the stage")
STATUSES: Final = {
    StageStatus.DONE: _own("ST-DONE", "Done"),
    StageStatus.PENDING: _own("ST-PENDING", "Awaiting sentinel lymph node result"),
    StageStatus.EXCLUDED: _own("ST-EXCL", "Excluded by sentinel lymph node result"),
    StageStatus.NOT_INDICATED: _own("ST-NOTIND", "Not indicated"),
    StageStatus.CONDITIONAL: _own("ST-COND", "Conditional on lymph node result"),
}
SUMMARY: Final = _own("SUMMARY", "Summary for a human reader")
PATHWAY: Final = _own("PATHWAY", "Place in the clinical pathway")
PATHWAYS: Final = {
    Pathway.SLN_LOW_RISK: _own("PW-SLN-LOW", "Low risk of sentinel node metastasis"),
    Pathway.AWAITING_SLND: _own("PW-AWAIT", "Sentinel node dissection awaited"),
    Pathway.SLN_NEGATIVE: _own("PW-SLN-NEG", "Sentinel nodes free of metastasis"),
    Pathway.NSLN_LOW_RISK: _own("PW-NSLN-LOW", "Low risk of further metastasis"),
    Pathway.NSLN_HIGH_RISK: _own("PW-NSLN-HIGH", "High risk of further metastasis"),
}
USE: Final = _own("USE", "Intended use")
RESEARCH_USE_ONLY: Final = _own("RUO", "Research use only")
SLND_SOURCE: Final = _own("SLND-SRC", "Source of the lymph node result")
SLICE_RULE: Final = _own("SLICE-RULE", "Why this slice")
PHASE: Final = _own("PHASE", "Contrast phase of the analysed slice")
SIDE_SOURCE: Final = _own("SIDE-SRC", "How the side was found")
THRESHOLD_SOURCE: Final = _own("THRESHOLD-SRC", "How the threshold was set")
PERFORMANCE: Final = _own("PERFORMANCE", "Performance at the threshold")
DISCORDANCE: Final = _own("DISCORDANCE", "Discordance with pathology")

LESION_TITLE: Final = "Lesion 1"
STAGE_TITLES: Final = {
    Stage.SLN: "Stage I: SLN metastasis",
    Stage.NSLN: "Stage II: NSLN metastasis",
}
TITLES: Final = (LESION_TITLE, *STAGE_TITLES.values())
"""Tracking identifiers of the measurement groups, in the order of the report."""

PUBLISHED: Final = {
    code.value: code.meaning
    for code in (
        *PROBABILITY.values(),
        *RISK.values(),
        THRESHOLD,
        STAGE_STATUS,
        *STATUSES.values(),
        SUMMARY,
        PATHWAY,
        *PATHWAYS.values(),
        USE,
        RESEARCH_USE_ONLY,
        SLND_SOURCE,
        SLICE_RULE,
        PHASE,
        SIDE_SOURCE,
        THRESHOLD_SOURCE,
        PERFORMANCE,
        DISCORDANCE,
    )
}
"""Every private code with its meaning, as the conformance statement publishes them."""
