"""`sentinode results replay`: compute a result again, in a process with torch."""

import json
import subprocess
import sys
from typing import Any, Final

import click

from worker import outcomes
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json, print_table
from worker.settings import child_environment

DOES_NOT_HOLD: Final = (
    "sentinode: the result does not follow from what was kept; restore crop, slice and "
    "model from a backup and replay it, or `sentinode studies reprocess` the study"
)


@click.command("replay")
@click.argument("result_id", metavar="ID")
@json_option
@site_options
def command(site: Site, result_id: str, *, as_json: bool) -> None:
    """Compute a result again from what was kept of it, and compare; changes nothing.

    The digests of crop, slice, weights and preprocessing are checked first; then the
    recorded model, active or not, must give the recorded probability: bit-identical on
    the same kind of CPU with the same torch, else at most 1e-5 apart. Exit codes: 0 it
    holds; 1 it does not; 3 no such result; 4 something needed is gone.

    Example: sentinode results replay 3f0c...
    """
    with site.reading() as session:
        outcomes.result(session, result_id)  # not found: said without loading torch
    flags = {"data_dir": str(site.settings.data_dir)}
    if site.settings.database_url is not None:
        flags["database_url"] = site.settings.database_url
    done = subprocess.run(
        [sys.executable, "-m", "worker.replay", result_id],
        env=child_environment(flags),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.stdout:
        found = json.loads(done.stdout)
        if as_json:
            print_json(found)
        else:
            _print(found)
        if not found["holds"]:
            click.echo(DOES_NOT_HOLD, err=True)
    sys.exit(done.returncode)


def _print(found: dict[str, Any]) -> None:
    verdict = "holds" if found["holds"] else "DOES NOT HOLD"
    print_table(
        f"Replay of result {found['result_id']}: {verdict} - RESEARCH USE ONLY",
        ("", ""),
        [
            *(("checked", sentence) for sentence in found["checked"]),
            *(("FAULT", sentence) for sentence in found["faults"]),
            *(row for stage in found["stages"] for row in _rows(stage)),
            ("computed on", f"{found['cpu']}, torch {found['torch_version']}"),
        ],
    )


def _rows(stage: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of one stage; numbers are shown to the last bit."""
    name = stage["stage"]
    holds = "holds" if stage["holds"] else "DOES NOT HOLD"
    return [
        (f"{name} model", stage["model"]),
        (f"{name} recorded", f"{stage['recorded']!r}, {stage['recorded_risk']} risk"),
        (
            f"{name} recomputed",
            f"{stage['recomputed']!r}, {stage['recomputed_risk']} risk",
        ),
        (f"{name} difference", f"{stage['difference']:.3g}"),
        (f"{name} criterion", f"{stage['criterion']} ({stage['why']})"),
        (f"{name} verdict", holds),
    ]
