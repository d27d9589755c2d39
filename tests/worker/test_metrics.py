"""The counts that a monitoring system reads."""

import json
import re
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.db import now
from dicom_node.findings import Laterality, Slnd, SlndResult, Stage
from tests.peers import wait_until
from worker import slnd
from worker.case import SiteThreshold
from worker.cli import main
from worker.metrics import families
from worker.metrics.scraper import Scraper
from worker.slnd import Provenance
from worker.tasks.analysis import analyze

ROOT = Path(__file__).parents[2]


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels, these in the order of their names."""
    return {
        (one.name, *(one.labels[name] for name in sorted(one.labels))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def look(bench) -> dict[tuple[str, ...], float]:
    return samples(exposed(bench))


def exposed(bench) -> str:
    scraper = Scraper(bench.site.settings, bench.sessions.kw["bind"])
    return families.exposition(scraper.view(first_wait_s=None)).decode()


def test_every_series_is_there_from_the_start(bench):
    seen = look(bench)

    assert seen["sentinode_discordant_cases",] == 0
    assert seen["sentinode_cases", "awaiting_slnd"] == 0
    assert seen["sentinode_studies", "", "queued"] == 0
    assert seen["sentinode_deliveries", "PACS", "failed"] == 0
    assert seen["sentinode_slnd_parked", "unknown_patient"] == 0


def test_a_miss_of_stage_one_is_counted_until_it_is_corrected(
    bench, slices, mark, cascade
):
    low = replace(cascade, site_thresholds={Stage.SLN: SiteThreshold(1.0, "test")})
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    seen = []
    for result in (None, Slnd.POSITIVE, Slnd.NEGATIVE):
        if result is not None:
            said = SlndResult(result, None, None, "desk", now())
            how = Provenance("tester", correction=True)
            with bench.sessions.begin() as session:
                slnd.record(session, uid, Laterality.LEFT, said, how)
        analyze(uid, bench.site, lambda _sessions: low)
        seen.append(look(bench))

    discordant = [one["sentinode_discordant_cases",] for one in seen]
    assert discordant == [0, 1, 0]
    assert seen[0]["sentinode_cases", "sln_low_risk"] == 1
    assert seen[2]["sentinode_cases", "sln_negative"] == 1
    assert seen[2]["sentinode_studies", "", "analyzed"] == 1
    assert seen[2]["sentinode_deliveries", "PACS", "due"] >= 3


def test_a_held_study_is_counted_under_its_reason(bench, slices, source):
    uid = bench.receive(*slices)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    assert look(bench)["sentinode_studies", "no_roi", "held"] == 1


def test_the_age_that_workers_are_scaled_by_rises_while_a_study_waits(bench, slices):
    scaling = ROOT / "docker" / "kubernetes" / "scaling.yaml"
    names = set(re.findall(r"query: max\((\w+)\)", scaling.read_text()))
    (name,) = names
    before = look(bench)[name,]
    bench.queue(bench.receive(*slices))

    assert before == 0
    assert wait_until(lambda: look(bench)[name,] > 0, name)


def test_the_command_prints_text_or_json(bench):
    data_dir = ("--data-dir", str(bench.site.settings.data_dir))

    text = CliRunner().invoke(main, ["metrics", *data_dir])
    shown = CliRunner().invoke(main, ["metrics", "--json", *data_dir])

    told = samples(text.stdout)
    same = ("sentinode_cases", "sentinode_studies", "sentinode_stage_seconds_bucket")
    assert {key: value for key, value in told.items() if key[0] in same} == {
        key: value for key, value in look(bench).items() if key[0] in same
    }
    assert told["sentinode_database_up",] == 1
    assert told["sentinode_broker_up",] == 0
    assert json.loads(shown.stdout)["discordant_cases"] == 0
