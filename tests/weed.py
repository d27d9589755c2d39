"""A real object store on loopback: SeaweedFS, from its package."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec

from tests.peers import free_port, wait_until

KEY = ("key", "secretsecret")


class ObjectStore:
    """One process with one bucket; what was stored outlives `stop`."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="sentinode-store-"))
        self._ports = [free_port() for _ in range(8)]
        self.process = None
        (self.folder / "data").mkdir()
        (self.folder / "credentials").write_text(":".join(KEY) + "\n")
        identity = {
            "name": "sentinode",
            "credentials": [{"accessKey": KEY[0], "secretKey": KEY[1]}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[3]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SENTINODE_STORE_URL": "s3://sentinode/spool",
            "SENTINODE_STORE_ENDPOINT": self.endpoint,
            "SENTINODE_STORE_CREDENTIALS_FILE": str(self.folder / "credentials"),
        }

    def start(self) -> "ObjectStore":
        program = shutil.which("weed", path=str(Path(sys.executable).parent))
        assert program, "weed is missing: install the extra `dev`"
        master, volume, filer, s3, *grpc = self._ports
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(program, "server", f"-dir={self.folder / 'data'}"),
                    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}"),
                    *(f"-volume.port={volume}", "-volume.max=20", "-filer"),
                    *(f"-filer.port={filer}", "-s3", f"-s3.port={s3}"),
                    *(f"-s3.config={self.folder / 's3.json'}",),
                    *(f"-master.port.grpc={grpc[0]}", f"-volume.port.grpc={grpc[1]}"),
                    *(f"-filer.port.grpc={grpc[2]}", f"-s3.port.grpc={grpc[3]}"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                    "-master.volumeSizeLimitMB=64",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, "the object store's start")
        except AssertionError as error:
            said = (self.folder / "log").read_text()[-3000:]
            raise AssertionError(f"{error}\n{said}") from None
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        files = fsspec.filesystem(
            "s3",
            key=KEY[0],
            secret=KEY[1],
            client_kwargs={"endpoint_url": self.endpoint, "region_name": "us-east-1"},
            config_kwargs={"connect_timeout": 2, "retries": {"max_attempts": 1}},
            skip_instance_cache=True,
        )
        try:
            if not files.exists("sentinode/ready"):
                files.mkdir("sentinode")
                files.pipe_file("sentinode/ready", b"1")
            return files.cat_file("sentinode/ready") == b"1"
        except Exception:  # noqa: BLE001 - whatever it says, it is not up
            return False
