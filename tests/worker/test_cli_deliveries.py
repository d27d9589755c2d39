"""`sentinode deliveries`: what a person and a script see of each delivery."""

import json

import pytest
from click.testing import CliRunner

from dicom_node.report.fallback import ENHANCED
from dicom_node.study import Peer
from tests.archives import SC, Archive
from worker.cli import main

CONTRACT = {
    "delivery_id",
    "result_id",
    "sop_instance_uid",
    "kind",
    "destination",
    "state",
    "attempts",
    "last_status",
    "next_attempt_at",
}
GONE = Peer("GONE", "127.0.0.1", 1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def desk(desk):
    return desk.with_settings(commit=("all",))


@pytest.fixture
def archive():
    made = Archive(commits="same")
    yield made
    made.stop()


@pytest.fixture
def run(desk):
    def call(*arguments, code=0):
        options = ["--data-dir", str(desk.settings.data_dir)]
        done = CliRunner().invoke(main, ["deliveries", *arguments, *options])
        assert done.exit_code == code, done.output
        return done.output

    return call


def listed(run, *arguments):
    return json.loads(run("list", "--json", *arguments))


def test_a_list_keeps_the_contract_and_says_what_the_status_means(desk, archive, run):
    archive.statuses = [0xB006]
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    archive.join()
    report, capture = sorted(listed(run), key=lambda one: one["kind"] != "SR")
    assert report.keys() >= CONTRACT
    assert (report["state"], capture["state"]) == ("committed", "committed")
    assert (report["last_status"], capture["last_status"]) == ("0xB006", "0x0000")
    assert report["last_status_meaning"] == "warning: elements were discarded"
    assert report["commitment"]["state"] == "committed"
    table = run("list")
    for said in ("0xB006 warning: elements were discarded", str(peer), "committed"):
        assert said in table


def test_what_waits_is_shown_with_its_next_attempt(desk, run):
    desk.result("r1", GONE)
    desk.deliver(GONE)
    found = listed(run, "--state", "due")
    assert [one["attempts"] for one in found] == [1, 1]
    assert {one["next_attempt_at"] for one in found} == {"2026-03-04T10:01:00.000Z"}
    assert {one["last_status"] for one in found} == {None}
    assert {one["commitment"] for one in found} == {None}
    assert "2026-03-04 10:01:00Z" in run("list")


def test_a_report_of_another_class_is_listed_as_what_was_sent(desk, archive, run):
    archive.takes = (ENHANCED, SC)
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    report = next(one for one in listed(run) if one["kind"] == "SR")
    assert report["sop_class_uid"] == ENHANCED
    assert report["sop_instance_uid"] in archive.objects
    assert report["variant_of"] not in archive.objects
    assert f"SR (as {ENHANCED})" in run("list")


def test_one_delivery_is_shown_with_its_requests(desk, archive, run):
    archive.commits = "never"
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    one = listed(run)[0]
    shown = json.loads(run("show", one["delivery_id"], "--json"))
    assert shown["commitment"]["state"] == "asked"
    (request,) = shown["commitment_requests"]
    assert request["transaction_uid"] == archive.transactions[0]
    assert archive.transactions[0] in run("show", one["delivery_id"])
    run("show", "nothing", code=3)


def test_a_delivery_is_cancelled_once_and_never_after_it_was_sent(desk, archive, run):
    desk.result("r1", peer := archive.start())
    first, second = (one["delivery_id"] for one in listed(run))
    assert run("cancel", first, "--dry-run") == "would be cancelled\n"
    assert [one["state"] for one in listed(run)] == ["due", "due"]
    assert run("cancel", first) == "cancelled\n"
    assert "was cancelled" in run("cancel", first, code=4)
    desk.deliver(peer)
    archive.join()
    assert "was committed" in run("cancel", second, code=4)
    assert len(archive.received) == 1
    run("cancel", "nothing", code=3)
    run("cancel", "nothing", "--dry-run", code=3)
    assert run("retry", first) == "1 due now\n"
