"""No secret is shown by a running installation, whatever happens to it.

`sentinode up` against PostgreSQL and Redis, each with a password of its own, Redis by
TLS, and a PACS by mutual TLS. What every process shows is searched for the markers.
"""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from tests.certificates import Hospital
from tests.peers import ORTHANC_AET, Orthanc, Sentinode, free_port, wait_until

pytestmark = pytest.mark.e2e

PASSWORDS = {
    "database_password": "Marker-db@p/ss:w0rd",
    "broker_password": "Marker-broker@p/ss:w0rd",
    "patient_key_secret": "Marker-patient-key-secret",
    "http_token": "Marker-http-token-16",
    "webhook_secret": "Marker-webhook-secret-16",
    "stow_token": "Marker-stow-token",
    "wrong_password": "Marker-wrong@p/ss:w0rd",
}


def secret_files(folder: Path) -> dict[str, Path]:
    files = {}
    for name, secret in PASSWORDS.items():
        files[name] = folder / name
        files[name].write_text(f"{secret}\n")
        files[name].chmod(0o600)
    return files


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def database(postgres) -> str:
    """A database whose owner must give a password."""
    url = sa.make_url(postgres.create())
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        role = f"CREATE ROLE keeper LOGIN PASSWORD '{PASSWORDS['database_password']}'"
        connection.execute(sa.text(role.replace(":w0rd", r"\:w0rd")))
        own = f"ALTER DATABASE {url.database} OWNER TO keeper"
        connection.execute(sa.text(own))
        connection.execute(sa.text("GRANT ALL ON SCHEMA public TO keeper"))
        rules = Path(connection.execute(sa.text("SHOW hba_file")).scalar_one())
        before = rules.read_text()
        rules.write_text(f"local all keeper scram-sha-256\n{before}")
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    engine.dispose()
    return url.set(username="keeper").render_as_string(hide_password=False)


class Redis:
    """Debian's server, which demands TLS and a password."""

    def __init__(self, folder: Path, hospital: Hospital):
        self.port = free_port()
        config = folder / "redis.conf"
        config.write_text(
            f"port 0\ntls-port {self.port}\nbind 127.0.0.1\nsave ''\ndir {folder}\n"
            f"tls-cert-file {hospital.peer.certificate}\n"
            f"tls-key-file {hospital.peer.key}\n"
            f"tls-ca-cert-file {hospital.ca}\ntls-auth-clients no\n"
            f"requirepass {PASSWORDS['broker_password']}\n"
        )
        self._config = config
        self._process = None
        self.url = (
            f"rediss://127.0.0.1:{self.port}/0"
            f"?ssl_cert_reqs=required&ssl_ca_certs={hospital.ca}"
        )

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", str(self._config)], stdout=subprocess.DEVNULL
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


class Site:
    """The installation, and everything that it has shown so far."""

    def __init__(self, sentinode: Sentinode, redis: Redis, files: dict[str, Path]):
        self.sentinode = sentinode
        self.redis = redis
        self.files = files
        self.shown: list[str] = []

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        done = self.sentinode.run(*arguments, environment=environment)
        self.shown += [done.stdout, done.stderr]
        return done

    def process(self, *command: str, **environment: str) -> None:
        """Start a process that cannot go on; look at what it says."""
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **self.sentinode.environment,
                "SENTINODE_DATA_DIR": str(self.sentinode.folder),
                **environment,
            },
        )
        try:
            self.shown.append(process.communicate(timeout=8)[0])
        except subprocess.TimeoutExpired:
            process.terminate()
            self.shown.append(process.communicate(timeout=20)[0])

    def look(self) -> str:
        """Return all that can be seen: command lines, logs, what commands printed."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes().replace(b"\0", b" ").decode())
            except (OSError, UnicodeDecodeError):
                continue
        logs = [
            path.read_text(errors="replace")
            for path in self.sentinode.folder.rglob("*.log*")
        ]
        up = (self.sentinode.folder / "up.json").read_text()
        return "\n".join([*lines, *logs, up, *self.shown])


@pytest.fixture(scope="module")
def site(tmp_path_factory, quick_models, database, hospital):
    folder = tmp_path_factory.mktemp("secrets")
    files = secret_files(folder)
    redis = Redis(folder, hospital)
    redis.start()
    sentinode = Sentinode(folder / "sentinode", quick_models)
    tls_port = free_port()
    sentinode.extra = {
        "SENTINODE_DATABASE_URL": database,
        "SENTINODE_DATABASE_PASSWORD_FILE": str(files["database_password"]),
        "SENTINODE_BROKER_URL": redis.url,
        "SENTINODE_BROKER_PASSWORD_FILE": str(files["broker_password"]),
        "SENTINODE_PATIENT_KEY_SECRET_FILE": str(files["patient_key_secret"]),
        "SENTINODE_HTTP_TOKEN_FILE": str(files["http_token"]),
        "SENTINODE_WEBHOOK_SECRET_FILE": str(files["webhook_secret"]),
        "SENTINODE_STOW_TOKEN_FILE": str(files["stow_token"]),
        "SENTINODE_TLS_CERTIFICATE": str(hospital.ours.certificate),
        "SENTINODE_TLS_KEY": str(hospital.ours.key),
        "SENTINODE_TLS_CA": str(hospital.ca),
        "SENTINODE_TLS_PORT": str(tls_port),
    }
    options = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(hospital.peer.certificate),
        "DicomTlsPrivateKey": str(hospital.peer.key),
        "DicomTlsTrustedCertificates": str(hospital.ca),
    }
    orthanc = Orthanc(folder / "orthanc", tls_port, options=options).start()
    sentinode.use(f"tls:{ORTHANC_AET}@127.0.0.1:{orthanc.port}", "1")
    try:
        sentinode.start()
        yield Site(sentinode, redis, files)
    finally:
        sentinode.stop()
        orthanc.stop()
        redis.stop()


def test_a_study_goes_in_and_out_by_mutual_tls(site):
    done = site.run("selftest", "--json")
    assert done.returncode == 0, done.stdout + done.stderr + site.sentinode.logs()
    steps = {step["name"]: step for step in json.loads(done.stdout)["steps"]}
    assert "by C-STORE to tls:SENTINODE@127.0.0.1:" in steps["receive"]["detail"]
    assert steps["deliver"]["ok"]


def test_doctor_looks_after_certificates_and_secrets(site):
    done = site.run("doctor", "--json")
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert checks["listener, TLS"]["ok"]
    assert checks["certificates"]["detail"].startswith("valid until")
    assert "none readable by everybody" in checks["secret files"]["detail"]
    site.files["http_token"].chmod(0o644)
    try:
        assert (
            "warning: everybody may read http_token_file" in site.run("doctor").stdout
        )
    finally:
        site.files["http_token"].chmod(0o600)


def test_no_secret_is_shown_whatever_happens(site):
    wrong = str(site.files["wrong_password"])
    url = site.sentinode.extra["SENTINODE_DATABASE_URL"]
    with_password = url.replace(
        "keeper@", f"keeper:{quote(PASSWORDS['wrong_password'], safe='')}@"
    )
    assert site.run("doctor", SENTINODE_DATABASE_PASSWORD_FILE=wrong).returncode == 1
    assert site.run("doctor", SENTINODE_BROKER_PASSWORD_FILE=wrong).returncode == 1
    assert site.run("up").returncode == 4  # it runs already
    given = {
        "SENTINODE_DATABASE_URL": with_password,
        "SENTINODE_DATABASE_PASSWORD_FILE": "",
    }
    for command in (("db", "upgrade"), ("studies", "list")):
        assert site.run(*command, **given).returncode != 0
    site.process("dicom_node", **given)
    worker = ("celery", "-A", "worker", "worker", "-Q", "analysis", "--concurrency=1")
    site.process(*worker, SENTINODE_BROKER_PASSWORD_FILE=wrong)
    site.process("worker.hl7", SENTINODE_HL7_PORT="1", **given)
    site.redis.stop()
    log = site.sentinode.folder / "logs" / "dispatch.log"
    size = log.stat().st_size
    wait_until(lambda: log.stat().st_size > size, "a complaint about the broker", 30)
    site.run("doctor")
    site.redis.start()

    seen = site.look()

    assert f"127.0.0.1:{site.redis.port}" in seen  # it is searched where it would be
    assert "Traceback" not in " ".join(site.shown)
    for name, secret in PASSWORDS.items():
        for form in {secret, quote(secret, safe=""), secret.partition("@")[0]}:
            assert form not in seen, f"{name}: {context(seen, form)}"


def context(seen: str, form: str) -> str:
    at = seen.index(form)
    return seen[max(0, at - 300) : at + 50]
