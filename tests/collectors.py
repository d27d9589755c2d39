"""Debian's rsyslog as the collector of audit messages, over TLS, TCP or UDP."""

import subprocess
from pathlib import Path

import trustme

from dicom_node.syslog import Identity
from tests.peers import free_port, wait_until

NAME = "sentinode.example"
RAW = 'template(name="raw" type="string" string="%rawmsg%\\n")\n'
TLS = """global(
  defaultNetstreamDriver="gtls"
  defaultNetstreamDriverCAFile="{ca}"
  defaultNetstreamDriverCertFile="{certificate}"
  defaultNetstreamDriverKeyFile="{key}"
)
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1"
  streamDriver.authMode="x509/name" permittedPeer="{name}")
"""


class Authority:
    """A certificate authority with files of the collector's and of our identity."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)
        self.server = self.issue("127.0.0.1", "localhost")
        self.client = self.issue(NAME)

    def issue(self, *names: str) -> tuple[Path, Path]:
        """Return the files of a certificate for names, and of its key."""
        made = self._authority.issue_cert(*names, common_name=names[0])
        certificate, key = (
            self.folder / f"{names[0]}.{kind}" for kind in ("pem", "key")
        )
        certificate.write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return certificate, key

    @property
    def identity(self) -> Identity:
        """Who we are, as the settings say it."""
        return Identity(self.ca, *self.client)


class Rsyslog:
    """One rsyslogd that writes what it receives into a file, as it came."""

    def __init__(self, folder: Path, scheme: str, authority: Authority | None = None):
        self.folder = folder
        self.scheme = scheme
        self.port = free_port()
        self.file = folder / "collected.log"
        self._authority = authority
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> "Rsyslog":
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "rsyslog.conf"
        config.write_text(self._config())
        with (self.folder / "rsyslogd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["rsyslogd", "-n", "-f", config, "-i", self.folder / "pid"],
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, "rsyslog's start", 20)
        return self

    def _config(self) -> str:
        module = f'module(load="im{"udp" if self.scheme == "udp" else "tcp"}")\n'
        if self._authority is not None:
            certificate, key = self._authority.server
            module = TLS.format(
                ca=self._authority.ca, certificate=certificate, key=key, name=NAME
            )
        kind = "imudp" if self.scheme == "udp" else "imtcp"
        address = ' address="127.0.0.1"'
        return (
            f'global(workDirectory="{self.folder}")\n{module}{RAW}'
            f'input(type="{kind}" port="{self.port}"{address})\n'
            f'action(type="omfile" file="{self.file}" template="raw")\n'
        )

    def _listens(self) -> bool:
        """Look without a connection, which would be a fault in its log."""
        table = Path("/proc/net", "udp" if self.scheme == "udp" else "tcp").read_text()
        return f":{self.port:04X} 00000000:0000" in table

    def kill(self) -> None:
        """End it at once, with whatever it holds in memory."""
        self.process.kill()
        self.process.wait(10)
        (self.folder / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def lines(self) -> list[str]:
        """Return what it wrote, without what was cut off by a kill."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        return [line for line in text.split("\n")[:-1] if line.endswith(">")]
