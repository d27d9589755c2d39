"""What the compose file promises, as docker-compose itself reads it."""

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from dicom_node.settings import NodeSettings
from training import queues
from training.settings import TrainingSettings

DOCKER = Path(__file__).parents[2] / "docker"
PROFILES = ("hl7", "monitoring", "pacs", "training")
OURS = (
    *("migrate", "listener", "analysis", "dispatch", "delivery", "beat", "hl7"),
    *("monitor", "trainer", "training-beat"),
)
SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN")


@pytest.fixture(scope="module")
def config() -> dict:
    return read("compose.yaml")


def read(*files: str) -> dict:
    assert shutil.which("docker-compose"), "run `make peers`"
    done = subprocess.run(
        [
            "docker-compose",
            *(word for file in files for word in ("--file", file)),
            *("--env-file", "example.env"),
            *(word for profile in PROFILES for word in ("--profile", profile)),
            "config",
        ],
        cwd=DOCKER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def services(config) -> dict:
    return config["services"]


def test_every_part_of_sentinode_and_what_it_needs_is_there(services):
    others = {"postgres", "redis", "orthanc", "prometheus", "grafana"}
    assert services.keys() == {*OURS, *others}


def test_every_service_is_confined_limited_watched_and_restarted(services):
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["healthcheck"]["test"], name
        assert {"cpus", "memory"} <= limits.keys(), name
        assert service["restart"] in {"unless-stopped", "on-failure"}, name
        assert "privileged" not in service, name


def test_sentinode_never_runs_as_root(services):
    assert {services[name]["user"] for name in OURS} == {"10001:10001"}


def test_no_secret_stands_in_the_environment_or_a_command(services):
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in SECRET_WORDS):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"
            if "://" in str(value):
                assert urlsplit(value).password is None, f"{name}: {variable}"
        command = " ".join(map(str, service.get("command") or ()))
        assert "--requirepass" not in command, name


def test_secrets_are_files_beside_the_compose_file(config):
    for name, secret in config["secrets"].items():
        assert secret["file"] == str(DOCKER / "secrets" / name)
        assert "secrets/" in (DOCKER / ".gitignore").read_text()


def test_every_variable_of_ours_is_a_setting(services):
    fields = {f"SENTINODE_{name.upper()}" for name in TrainingSettings.model_fields}
    used = {
        variable
        for name in OURS
        for variable in services[name]["environment"]
        if variable.startswith("SENTINODE_")
    }
    assert used <= fields


def test_only_the_listeners_face_the_network(config, services):
    published = {name for name, one in services.items() if one.get("ports")}
    assert config["networks"]["inside"]["internal"] is True
    assert published == {"listener", "hl7", "grafana"}
    assert services["prometheus"]["network_mode"] == "service:monitor"
    for port in services["grafana"]["ports"]:  # for a browser on this very host
        assert str(port).startswith("127.0.0.1:")
    for name in ("postgres", "redis", "analysis", "beat", "migrate", "training-beat"):
        assert list(services[name]["networks"]) == ["inside"], name


def test_tls_is_added_to_those_who_speak_dicom_and_loosens_nothing(services):
    with_tls = read("compose.yaml", "compose.tls.yaml")["services"]
    changed = {
        name
        for name in services
        if services[name].get("environment") != with_tls[name].get("environment")
    }
    assert changed == {"listener", "dispatch", "delivery"}
    assert len(with_tls["listener"]["ports"]) == 2
    fields = {f"SENTINODE_{name.upper()}" for name in NodeSettings.model_fields}
    for name in changed:
        before, after = services[name], with_tls[name]
        added = after["environment"].keys() - before["environment"].keys()
        assert added <= fields
        assert "SENTINODE_TLS_CA" in added
        assert len(after["secrets"]) == len(before["secrets"]) + 1
        for kept in ("read_only", "cap_drop", "security_opt", "user", "networks"):
            assert plain(after)[kept] == plain(before)[kept]


def plain(service: dict) -> dict:
    """A service with the names of its networks, which are written in two ways."""
    return {**service, "networks": list(service.get("networks") or ())}


def test_nothing_starts_before_the_schema_is_there(services):
    for name in set(OURS) - {"migrate"}:
        condition = services[name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully", name


def test_celery_processes_take_the_queues_that_their_tasks_are_on(services):
    for name in ("analysis", "dispatch", "delivery"):
        command = services[name]["command"]
        assert command[command.index("-Q") + 1] == name
        assert command[command.index("-n") + 1] == f"{name}@%h"
        included = command[command.index("-I") + 1].split(",")
        assert f"worker.tasks.{name}" in included


def test_the_trainer_takes_its_queue_and_has_a_clock_of_its_own(services):
    worker, clock = services["trainer"]["command"], services["training-beat"]["command"]
    assert worker[worker.index("-Q") + 1] == queues.TRAINING
    module = worker[worker.index("-I") + 1]
    assert {task.rpartition(".")[0] for task in queues.EVERY} == {module}
    for command in (worker, clock):
        assert command[:3] == ["celery", "-A", "training"]
    for name in ("trainer", "training-beat"):
        assert services[name]["entrypoint"] in (
            [],
            None,
        )  # the image's runs one command
        node = services[name]["command"][services[name]["command"].index("-n") + 1]
        test = services[name]["healthcheck"]["test"][1]
        assert f"-d {node.removesuffix('%h')}$" in test


def test_whoever_asks_after_the_listener_is_known_to_it_and_finds_it(services):
    known = services["listener"]["environment"]["SENTINODE_MONITORS"].split(",")
    asking = {
        name
        for name in OURS
        if services[name]["environment"].get("SENTINODE_HOST") == "listener"
    }
    assert set(known) == asking == {"dispatch", "monitor"}


def test_the_example_of_the_site_names_no_secret():
    text = (DOCKER / "example.env").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = [line.partition("=")[0] for line in lines]
    assert not [one for one in names if any(word in one for word in SECRET_WORDS)]
