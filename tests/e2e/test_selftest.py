"""The self test goes through everything, tells what fails, and leaves nothing here."""

import json

import pytest

pytestmark = pytest.mark.e2e


def run(sentinode, *arguments, code=0):
    done = sentinode.run("selftest", "--json", *arguments)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_a_live_system_passes_and_forgets(pair):
    sentinode, orthanc = pair
    found = run(sentinode)
    assert found["ok"]
    names = [one["name"] for one in found["steps"]]
    assert names == ["receive", "analyse", "deliver", "take out"]
    assert "by C-STORE" in found["steps"][0]["detail"]
    assert "RESEARCH USE ONLY" in found["steps"][1]["detail"]
    assert orthanc.instances(found["study_uid"], "SR")
    left = json.loads(sentinode.run("studies", "list", "--json").stdout)
    assert left == []
    assert json.loads(sentinode.run("deliveries", "list", "--json").stdout) == []

    orthanc.stop()
    broken = run(sentinode, "--timeout", "15", code=1)
    steps = {one["name"]: one for one in broken["steps"]}
    assert not broken["ok"]
    assert not steps["deliver"]["ok"]
    assert steps["take out"]["ok"]
