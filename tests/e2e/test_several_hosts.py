"""Hosts are lost with their disks, the object store goes away: nothing is lost.

Two listeners and three workers, each with a folder of its own, share one PostgreSQL,
one Redis and one object store.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE

from dicom_node import schema
from dicom_node.association import pausing
from dicom_node.intake import OUT_OF_RESOURCES
from tests import dicom_objects
from tests.e2e.test_production import redis_url  # noqa: F401 - a fixture
from tests.peers import AET, ORTHANC_AET, Orthanc, dcmsend, free_port, wait_until

pytestmark = pytest.mark.e2e

CELERY = (sys.executable, "-m", "celery", "-A", "worker")
QUIET = ("--without-gossip", "--without-mingle")


class Hosts:
    """Processes of one installation, each as if on a host of its own."""

    def __init__(self, folder: Path, shared: dict[str, str]):
        self.folder = folder
        self.shared = shared
        self.ports = {name: free_port() for name in ("listener-1", "listener-2")}
        self.running: dict[str, subprocess.Popen] = {}

    def environment(self, name: str) -> dict[str, str]:
        port = self.ports.get(name, 11112)
        return {
            **os.environ,
            **self.shared,
            "SENTINODE_DATA_DIR": str(self.folder / name),
            "SENTINODE_PORT": str(port),
        }

    def start(self, name: str) -> None:
        command = {
            "listener": (sys.executable, "-m", "dicom_node"),
            "analysis": (
                *(*CELERY, "worker", "-n", f"{name}@%h", "-Q", "analysis", *QUIET),
                *("-I", "worker.tasks.analysis", "--concurrency", "1"),
            ),
            "dispatch": (
                *(*CELERY, "worker", "-n", f"{name}@%h", "-Q", "dispatch,delivery"),
                "-I",
                "worker.tasks.dispatch,worker.tasks.completeness,worker.tasks.delivery",
                *("--concurrency", "2", *QUIET),
            ),
            "beat": (
                *(*CELERY, "beat", "--scheduler=celery.beat:Scheduler", "--pidfile="),
                *("--enable-remote-control", "-n", "beat@%h"),
            ),
        }[name.partition("-")[0]]
        (self.folder / name).mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                stdout=log,
                stderr=log,
                cwd=self.folder / name,
                start_new_session=True,
            )

    def lose(self, name: str) -> None:
        """Kill a host in the middle of what it does, and take its disk."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        shutil.rmtree(self.folder / name)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)

    def json(self, *arguments: str):
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments, "--json"],
            env=self.environment("admin"),
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.stdout else None

    def send(self, name: str, *paths: Path) -> None:
        dcmsend(f"{AET}@127.0.0.1:{self.ports[name]}", *paths)

    def status_of(self, dataset: Dataset) -> int:
        """Send one object to the second listener; return what it answers."""
        sender = AE(ORTHANC_AET)
        sender.add_requested_context(dataset.SOPClassUID)
        port = self.ports["listener-2"]
        association = pausing(sender.associate("127.0.0.1", port, ae_title=AET))
        try:
            return association.send_c_store(dataset).Status
        finally:
            association.release()

    def answers(self, name: str) -> bool:
        port = str(self.ports[name])
        call = ("echoscu", "-aet", ORTHANC_AET, "-aec", AET, "127.0.0.1", port)
        return subprocess.run(call, capture_output=True, check=False).returncode == 0

    def await_state(self, uid: str, state: str, timeout: float = 90.0):
        def look():
            study = self.json("studies", "show", uid)
            return study if study and study["state"] == state else None

        try:
            return wait_until(look, f"state {state}", timeout)
        except AssertionError as error:
            study = self.json("studies", "show", uid)
            raise AssertionError(f"{error}\n{study}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-2500:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


@pytest.fixture
def hosts(tmp_path, quick_models, postgres_url, redis_url, object_store):  # noqa: F811
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef")
    orthanc = Orthanc(tmp_path / "orthanc", 1).start()
    shared = {
        **object_store.environment,
        "SENTINODE_DATABASE_URL": postgres_url,
        "SENTINODE_BROKER_URL": redis_url,
        "SENTINODE_MODELS_DIR": str(quick_models),
        "SENTINODE_PATIENT_KEY_SECRET_FILE": str(tmp_path / "key"),
        "SENTINODE_PACS": str(orthanc),
        "SENTINODE_QUIET_PERIOD": "4",
        "SENTINODE_COMPLETE_EARLY": "false",
        "SENTINODE_HOST": "127.0.0.1",
        "SENTINODE_RESEND_AFTER": "3",
        "SENTINODE_ANALYSIS_TIME_LIMIT": "15",
        "SENTINODE_DELIVERY_TIME_LIMIT": "15",
    }
    schema.upgrade(postgres_url)
    made = Hosts(tmp_path, shared)
    made.orthanc = orthanc
    made.store = object_store
    for model in made.json("models", "list"):
        made.json("models", "activate", f"{model['name']}@{model['version']}")
    for name in ("listener-1", "listener-2", "analysis-1", "analysis-2", "dispatch"):
        made.start(name)
    made.start("beat")
    for name in made.ports:
        wait_until(lambda name=name: made.answers(name), f"C-ECHO of {name}", 90)
    yield made
    made.stop()
    orthanc.stop()


def study(name: str, write):
    slices = dicom_objects.fresh_study(name)
    mark = dicom_objects.gsps_rectangle([slices[4]])
    paths = [write(one) for one in (*slices, mark)]
    return str(slices[0].StudyInstanceUID), paths


def assert_analysed_once(hosts: Hosts, uid: str, instances: int) -> None:
    done = hosts.await_state(uid, "analyzed")
    results = hosts.json("results", "show", uid)
    results = results if isinstance(results, list) else [results]
    assert done["instances"] == instances
    assert len(results) == 1
    hosts.orthanc.await_instances(uid, "SR")
    wait_until(
        lambda: (
            {
                one["state"]
                for one in hosts.json("deliveries", "list")
                if one["result_id"] == results[0]["result_id"]
            }
            == {"sent"}
        ),
        "every delivery",
    )
    assert len(hosts.orthanc.instances(uid, "SR")) == 1


def test_studies_survive_the_loss_of_hosts_and_of_the_store(hosts: Hosts, write):
    uid, paths = study("hosts-1", write)
    hosts.send("listener-1", *paths[::2])
    hosts.send("listener-2", *paths[1::2])
    assert_analysed_once(hosts, uid, len(paths))
    for name in hosts.ports:  # nothing of a patient stays at a listener
        assert not [*(hosts.folder / name / "spool").rglob("*.dcm")]

    uid, paths = study("hosts-2", write)
    hosts.send("listener-1", *paths[: len(paths) // 2])
    hosts.lose("listener-1")
    hosts.lose("analysis-1")
    hosts.send("listener-2", *paths[len(paths) // 2 :])
    hosts.start("listener-1")  # another host of that name ends what it left open
    assert_analysed_once(hosts, uid, len(paths))

    uid, paths = study("hosts-3", write)
    hosts.send("listener-2", *paths)
    hosts.store.stop()
    refused, others = study("hosts-4", write)
    assert hosts.status_of(dcmread(others[0])) == OUT_OF_RESOURCES
    time.sleep(8)  # it is complete meanwhile, and its files cannot be had
    waiting = hosts.json("studies", "show", uid)
    hosts.store.start()
    assert waiting["state"] in {"receiving", "queued", "analyzing"}
    assert_analysed_once(hosts, uid, len(paths))
    hosts.send("listener-2", *others)
    assert_analysed_once(hosts, refused, len(others))
