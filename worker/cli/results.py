"""`sentinode results`: what the models said of each case."""

from collections.abc import Sequence
from typing import Any

import click
from sqlalchemy.orm import Session

from dicom_node import ledger, outbox
from dicom_node.findings import Proportion, StageFinding
from dicom_node.outbox import DocumentRecord
from dicom_node.study import StudyUid, is_valid_uid
from worker import keeping, outcomes
from worker.cli.context import Site, limit_option, site_options
from worker.cli.export import command as export
from worker.cli.printing import json_option, print_json, print_table, rfc3339
from worker.cli.replay import command as replay
from worker.keeping import KeptRecord
from worker.outcomes import ResultRecord


@click.group("results")
def command() -> None:
    """What the models said of each case. RESEARCH USE ONLY, not a diagnosis."""


command.add_command(replay)
command.add_command(export)


def proportion(rate: Proportion | None) -> dict[str, Any] | None:
    """Return a rate with its counts and 95% interval, as `--json` prints it."""
    if rate is None:
        return None
    return {
        "value": rate.value if rate.n else None,
        "k": rate.k,
        "n": rate.n,
        "low": rate.low,
        "high": rate.high,
    }


def _stage(stage: StageFinding) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "status": stage.status,
        "probability": stage.probability,
        "threshold": stage.threshold,
        "threshold_source": stage.threshold_source,
        "risk": stage.risk,
        "sensitivity": proportion(stage.sensitivity),
        "specificity": proportion(stage.specificity),
        "dataset": stage.dataset,
        "model": stage.model,
        "weights_sha256": stage.weights_sha256,
        "preprocessing_sha256": stage.preprocessing_sha256,
        "device": stage.device,
        "torch_version": stage.torch_version,
        "cpu": stage.cpu,
        "threads": stage.threads,
        "batch": stage.batch,
        "code_version": stage.code_version,
    }


def as_document(
    record: ResultRecord, documents: Sequence[DocumentRecord]
) -> dict[str, Any]:
    """Return a result as `--json` prints it; the keys are a contract."""
    slnd = record.slnd
    preprocessing = next(
        (one.preprocessing_sha256 for one in record.stages if one.preprocessing_sha256),
        None,
    )
    return {
        "result_id": record.result_id,
        "study_uid": record.study_uid,
        "case_id": record.case_id,
        "laterality": record.laterality,
        "version": record.version,
        "pathway": record.pathway,
        "created_at": rfc3339(record.created_at),
        "supersedes": record.supersedes,
        "superseded_by": record.superseded_by,
        "stages": [_stage(stage) for stage in record.stages],
        "discordant": record.discordant,
        "slnd": slnd
        and {
            "result": slnd.result,
            "deposit": slnd.deposit,
            "performed_on": slnd.performed_on,
            "source": slnd.source,
            "recorded_at": rfc3339(slnd.recorded_at),
        },
        "phase": record.phase,
        "laterality_derived": record.laterality_derived,
        "input": {
            "sop_instance_uids": list(record.input_sop_instance_uids),
            "sha256": record.input_sha256,
            "preprocessing_sha256": preprocessing,
        },
        "code_version": record.code_version,
        "documents": [
            {
                "kind": one.kind,
                "sop_class_uid": one.sop_class_uid,
                "sop_instance_uid": one.sop_instance_uid,
                "sha256": one.sha256,
                "variant_of": one.variant_of,
            }
            for one in documents
        ],
        "timings_ms": {
            name.removesuffix("_ms"): round(getattr(record.timings, name), 3)
            for name in outcomes.TIMING_COLUMNS
        },
        "research_use_only": True,
    }


def kept_of(kept: KeptRecord | None) -> dict[str, Any] | None:
    """Return what is kept of a result, as `--json` prints it."""
    if kept is None:
        return None
    return {
        "crop_sha256": kept.crop_sha256,
        "slice_sha256": kept.slice_sha256,
        "released_at": kept.released_at and rfc3339(kept.released_at),
    }


def _documents(
    session: Session, records: Sequence[ResultRecord]
) -> list[dict[str, Any]]:
    return [
        as_document(record, outbox.documents(session, record.result_id, variants=True))
        | {"kept": kept_of(keeping.of(session, record.result_id))}
        for record in records
    ]


@command.command("list")
@limit_option(50)
@json_option
@site_options
def list_results(site: Site, limit: int, *, as_json: bool) -> None:
    """List results, newest first."""
    with site.reading() as session:
        records = outcomes.results(session, limit=limit)
        if as_json:
            print_json(_documents(session, records))
            return
    print_table(
        "Results - RESEARCH USE ONLY, not a diagnosis",
        ("result", "study", "side", "pathway", "SLN", "NSLN", "created"),
        [
            (
                one.result_id,
                one.study_uid,
                one.laterality,
                one.pathway,
                *(_number(stage) for stage in one.stages),
                one.created_at,
            )
            for one in records
        ],
    )


def _number(stage: StageFinding) -> str:
    """Write probability, threshold and model together: none goes out alone."""
    if stage.probability is None:
        return str(stage.status)
    return (
        f"{stage.probability:.4f} (threshold {stage.threshold:.4f}, "
        f"{_group(stage.risk)}, {stage.model})"
    )


def _group(risk: str | None) -> str:
    """Name the risk group; a conditional number has none before the dissection."""
    return f"{risk} risk" if risk else "only if SLN positive"


@command.command("show")
@click.argument("identifier")
@json_option
@site_options
def show(site: Site, identifier: str, *, as_json: bool) -> None:
    """Show one result by its ID, or all results of a study by its UID."""
    with site.reading() as session:
        if is_valid_uid(identifier):
            ledger.study(session, StudyUid(identifier))  # a wrong UID is "not found"
            found = _documents(session, outcomes.results(session, identifier))
        else:
            found = _documents(session, [outcomes.result(session, identifier)])
    if as_json:
        print_json(found if is_valid_uid(identifier) else found[0])
        return
    if not found:
        click.echo("This study has no result yet; see `sentinode studies show`.")
    for one in found:
        _print(one)


def _print(one: dict[str, Any]) -> None:
    print_table(
        f"Result {one['result_id']} - RESEARCH USE ONLY, not a diagnosis",
        ("", ""),
        [
            ("study", one["study_uid"]),
            (
                "side",
                one["laterality"] + (" (derived)" if one["laterality_derived"] else ""),
            ),
            ("pathway", one["pathway"]),
            ("DCE phase", one["phase"]),
            *(row for stage in one["stages"] for row in _stage_rows(stage)),
            ("SLND", one["slnd"]["result"] if one["slnd"] else "not recorded"),
            ("discordant", "yes" if one["discordant"] else "no"),
            ("supersedes", one["supersedes"]),
            ("superseded by", one["superseded_by"]),
            ("created", f"{one['created_at']}, by Sentinode {one['code_version']}"),
            ("kept", _kept_line(one["kept"])),
            *(_document_row(doc) for doc in one["documents"]),
            (
                "milliseconds",
                ", ".join(f"{k} {v:.0f}" for k, v in one["timings_ms"].items()),
            ),
        ],
    )


def _kept_line(kept: dict[str, Any] | None) -> str:
    """Say whether a result can be computed again without its images."""
    if kept is None:
        return "nothing"
    if kept["released_at"]:
        return f"nothing since {kept['released_at']}"
    return "crop and slice" if kept["crop_sha256"] else "slice"


def _document_row(document: dict[str, Any]) -> tuple[str, str]:
    name = document["kind"]
    if document["variant_of"] is not None:
        name += f" as {document['sop_class_uid']}"
    return name, document["sop_instance_uid"]


def _stage_rows(stage: dict[str, Any]) -> list[tuple[str, str]]:
    name = stage["stage"]
    if stage["probability"] is None:
        return [(name, stage["status"])]
    return [
        (
            name,
            (
                f"probability {stage['probability']:.4f}, threshold "
                f"{stage['threshold']:.4f} -> {_group(stage['risk'])}"
            ),
        ),
        (f"{name} threshold", stage["threshold_source"]),
        (f"{name} sensitivity", _rate(stage["sensitivity"])),
        (f"{name} specificity", _rate(stage["specificity"])),
        (f"{name} data set", stage["dataset"]),
        (f"{name} model", f"{stage['model']} on {stage['device']}"),
        (f"{name} computed", f"torch {stage['torch_version']}, {stage['cpu']}"),
        (f"{name} weights", stage["weights_sha256"]),
    ]


def _rate(rate: dict[str, Any] | None) -> str:
    if rate is None or rate["value"] is None:
        return "not known at this threshold"
    return (
        f"{rate['value']:.3f} ({rate['k']}/{rate['n']}, "
        f"95% CI {rate['low']:.3f}-{rate['high']:.3f})"
    )
