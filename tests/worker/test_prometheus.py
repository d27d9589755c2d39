"""Debian's Prometheus scrapes an installation; each query and alert is run on it."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import monitored
from tests.monitored import Served
from tests.peers import free_port, wait_until
from worker.monitor.readiness import Check

MONITORING = Path(__file__).parents[2] / "docker" / "monitoring"
DASHBOARD = json.loads(
    (MONITORING / "grafana" / "dashboards" / "sentinode.json").read_text()
)
QUERIES = {
    (panel["title"], target["refId"]): target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
DOCUMENTED = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FIRES = {
    "SentinodeCallerRefused",
    "SentinodeDeliveryFailed",
    "SentinodeDrift",
    "SentinodeStoresRefused",
    "SentinodeStudyFailed",
}
"""What is true of the installation below, without the time that it must last."""

UNITS = {"percentunit", "s", "bytes", "Bps", "ops", None}


class Prometheus:
    """The server on a port of its own, scraping each second."""

    def __init__(self, folder: Path, target: tuple[str, int]):
        self.folder = folder
        self.port = free_port()
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(MONITORING / "alerts.yml")]
        static = config["scrape_configs"][0]["static_configs"][0]
        static["targets"] = ["{}:{}".format(*target)]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def query(self, expression: str) -> list[dict]:
        asked = urllib.parse.urlencode({"query": expression})
        return self.get(f"/api/v1/query?{asked}")["result"]

    def get(self, path: str) -> dict:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def scraped(self) -> bool:
        try:
            found = self.query('count_over_time(up{job="sentinode"}[1m])')
        except OSError:
            return False
        return bool(found) and float(found[0]["value"][1]) >= 4

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def broker(bench) -> Iterator[None]:
    """A broker where the settings expect that of `sentinode up`."""
    options = ("--port", "0", "--save", "", "--appendonly", "no")
    path = bench.site.settings.broker_socket
    path.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        ["redis-server", *options, "--unixsocket", str(path)],
        stdout=subprocess.DEVNULL,
    )
    wait_until(path.exists, "the broker's start")
    yield
    process.terminate()
    process.wait(30)


@pytest.fixture
def prometheus(bench, broker, study, source, tmp_path) -> Iterator[Prometheus]:
    """Prometheus, that has seen an installation with some of everything."""
    del study, broker
    monitored.activate_models(bench)
    monitored.held_study(bench, source)
    monitored.failed_study(bench)
    monitored.fail_delivery(bench)
    monitored.send_delivery(bench)
    monitored.report_drift(bench)
    pages = monitored.pages_of(bench, [Check("database", ok=True, detail="")])
    with Served(pages) as served:
        one = Prometheus(tmp_path, served.address)
        try:
            wait_until(one.scraped, "scraping")
            monitored.count_calls(bench)  # a rise, which rates and increases need
            refused = 'sentinode_stores_total{status="0xA700"} > 0'
            wait_until(lambda: one.query(refused), "the rise is scraped")
            time.sleep(2)
            yield one
        finally:
            one.stop()


def test_each_query_of_the_dashboard_has_data_and_alerts_are_right(prometheus):
    empty = {key for key, query in QUERIES.items() if not prometheus.query(query)}
    true = {name for name, rule in ALERTS.items() if prometheus.query(rule["expr"])}
    groups = prometheus.get("/api/v1/rules")["groups"]

    assert empty == set()
    assert true == FIRES
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(
        ALERTS, "ok"
    )


def test_rules_and_configuration_are_valid(tmp_path):
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)

    for what, name in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            ["promtool", "check", what, name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_to_do_and_is_documented(name):
    assert ALERTS[name]["annotations"].keys() == {"summary", "todo"}
    assert f"`{name}`" in DOCUMENTED


def test_the_dashboard_is_one_that_grafana_takes():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        assert panel["fieldConfig"]["defaults"].get("unit") in UNITS
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    source = yaml.safe_load(
        (MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    assert source["datasources"][0]["uid"] == "prometheus"
