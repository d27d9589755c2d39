"""Figure 1 as numbers: who was looked at, left out and why, and who was verified."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from training.row import UNKNOWN, CohortRow
from training.snapshot import Snapshot, reasons

SENTENCES: Final = {
    "no_labels": "no row in the table of labels",
    "no_images": "labels without images",
    "no_mark_on_side": "no mark on the side of the label",
    "several_studies": "several studies of one key",
    "no_roi": "no rectangle drawn",
    "roi_conflict": "readers disagree",
    "roi_outside_image": "rectangle outside the image",
    "roi_image_missing": "marked image missing",
    "roi_unreadable": "mark not readable",
    "no_dce_phase": "no phase after contrast",
    "phase_ambiguous": "phases not told apart",
    "laterality_unknown": "side unknown",
    "quality": "image quality",
    "not_breast_mr": "not a breast MRI",
    "annotates_other_study": "marks of another study only",
    "unreadable": "images not readable",
    "incomplete": "study incomplete",
    "images_purged": "images not kept",
    "not_analysed": "not analysed yet",
    "patient_mismatch": "objects of two patients",
    "duplicate_differs": "two objects under one identifier",
    "neoadjuvant_therapy": "therapy before surgery",
    "document_invalid": "report not valid",
}
"""Reason codes as a figure says them; a code without a sentence stands as it is."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What became of one cohort; `sln_unknown` had no SLND, or none is recorded.

    `nsln_known` and `nsln_positive` count SLN-positive cases only.
    """

    cohort: str
    included: int
    patients: int
    sln_positive: int
    sln_negative: int
    sln_unknown: int
    nsln_known: int
    nsln_positive: int


@dataclass(frozen=True, slots=True)
class Verified:
    """How many cases of a risk group of the live stage I had a SLND."""

    risk: str
    cases: int
    verified: int

    @property
    def share(self) -> float | None:
        """Verified cases of all, None of none."""
        return self.verified / self.cases if self.cases else None


@dataclass(frozen=True, slots=True)
class Flowchart:
    """Screened = excluded + included; `verified` is empty where nothing was live."""

    screened: int
    excluded: tuple[tuple[str, int], ...]
    included: int
    cohorts: tuple[Reached, ...]
    total: Reached
    verified: tuple[Verified, ...]


def flowchart(found: Snapshot) -> Flowchart:
    """Count a snapshot from screening to the known NSLN."""
    left_out = tuple(reasons(found.exclusions).items())
    names = cohort_names(found.rows)
    return Flowchart(
        screened=len(found) + len(found.exclusions),
        excluded=left_out,
        included=len(found),
        cohorts=tuple(
            reached(name, [row for row in found.rows if row.cohort == name])
            for name in names
        ),
        total=reached("all", found.rows),
        verified=verification(found),
    )


def cohort_names(rows: Sequence[CohortRow]) -> tuple[str, ...]:
    """Return the cohorts in the order of tables: training, internal, then others."""
    order = {"development": 0, "holdout": 1, "external": 2}
    found = {(order[row.role], row.cohort) for row in rows}
    return tuple(dict.fromkeys(name for _, name in sorted(found)))


def reached(name: str, rows: Sequence[CohortRow]) -> Reached:
    """Count the cases of one cohort."""
    sln = Counter(row.sln for row in rows)
    known = [row.nsln for row in rows if row.sln == 1 and row.nsln != UNKNOWN]
    return Reached(
        cohort=name,
        included=len(rows),
        patients=len({row.patient_key for row in rows}),
        sln_positive=sln[1],
        sln_negative=sln[0],
        sln_unknown=sln[UNKNOWN],
        nsln_known=len(known),
        nsln_positive=sum(known),
    )


def verification(found: Snapshot) -> tuple[Verified, ...]:
    """Count verified cases by the risk that the live stage I stated.

    Where the shares differ, naive sensitivity and specificity are biased.
    """
    groups: dict[str, list[CohortRow]] = {"low": [], "high": []}
    for row in found.rows:
        said = found.stage_one.get(row.case_id)
        if said is not None:
            groups[said.risk].append(row)
    if not any(groups.values()):
        return ()
    return tuple(
        Verified(risk, len(rows), sum(row.sln != UNKNOWN for row in rows))
        for risk, rows in groups.items()
    )


def flags(found: Snapshot) -> dict[str, int]:
    """Count the flags of cases, `roi_after_label` for one."""
    return dict(Counter(flag for row in found.rows for flag in row.flags.split()))


def sentence(reason: str) -> str:
    """Say an exclusion in words."""
    return SENTENCES.get(reason, reason)


def document(chart: Flowchart) -> Mapping[str, Any]:
    """Return a flowchart as JSON."""
    return {
        **asdict(chart),
        "excluded": dict(chart.excluded),
        "verified": [{**asdict(one), "share": one.share} for one in chart.verified],
    }


def lines(chart: Flowchart) -> list[str]:
    """Print a flowchart for people."""
    said = [f"screened {chart.screened}"]
    said += [f"  excluded {n}: {sentence(reason)}" for reason, n in chart.excluded]
    said.append(f"included {chart.included}")
    for one in (*chart.cohorts, chart.total):
        said.append(
            f"  {one.cohort}: {one.included} cases of {one.patients} patients; SLN+ "
            f"{one.sln_positive}, SLN- {one.sln_negative}, unknown {one.sln_unknown}; "
            f"NSLN known {one.nsln_known}, NSLN+ {one.nsln_positive}"
        )
    said += [
        f"  stage I {one.risk} risk: {one.verified} of {one.cases} verified"
        for one in chart.verified
    ]
    return said
