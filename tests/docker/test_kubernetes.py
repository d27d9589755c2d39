"""The Kubernetes manifests: valid by the published schemas, and confined."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dicom_node.settings import load
from training import queues as training_queues
from training.settings import TrainingSettings
from worker import queues
from worker.settings import DEFAULT_HTTP_PORT, WorkerSettings

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
FOREIGN = {
    *("Kustomization", "Component"),
    "ScaledObject",
}  # of kustomize and KEDA: no schema published


def documents() -> list[dict]:
    files = sorted([*FOLDER.glob("*.yaml"), *(FOLDER / "trainer").glob("*.yaml")])
    return [one for file in files for one in yaml.safe_load_all(file.read_text())]


def settings_of(model: type[WorkerSettings]) -> set[str]:
    return {f"SENTINODE_{name.upper()}" for name in model.model_fields}


WORKLOADS = [
    one for one in documents() if one["kind"] in {"Deployment", "StatefulSet", "Job"}
]


def named(kind: str) -> dict[str, dict]:
    return {
        one["metadata"]["name"]: one
        for one in documents()
        if one["kind"] == kind and "metadata" in one
    }


def pod(workload: dict) -> dict:
    return workload["spec"]["template"]["spec"]


def test_every_manifest_is_valid_by_the_schemas_of_kubernetes(tmp_path):
    for number, document in enumerate(documents()):
        if document["kind"] not in FOREIGN:
            (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "kubernetes-validate"), "--strict"),
            *map(str, sorted(tmp_path.iterdir())),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    passed = done.stdout.count(" passed for resource ") + done.stderr.count(
        " passed for resource "
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed == len(list(tmp_path.iterdir())), done.stdout + done.stderr


def test_a_manifest_with_a_wrong_word_is_refused(tmp_path):
    document = named("Deployment")["beat"]
    document["spec"]["replica"] = 1
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(document))
    command = [str(Path(sys.executable).parent / "kubernetes-validate"), "--strict"]
    done = subprocess.run([*command, path], capture_output=True, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "trainer"])
def test_the_kustomization_names_every_manifest(folder):
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert kustomization["namespace"] == "sentinode"


def kubectl_of_today() -> bool:
    if not shutil.which("kubectl"):
        return False
    told = subprocess.run(
        ["kubectl", "version", "--client", "--output=json"],
        capture_output=True,
        check=False,
    )
    return told.returncode == 0 and "kustomizeVersion" in json.loads(told.stdout)


@pytest.mark.parametrize("components", [(), ("object-store",), ("trainer",)])
def test_kubectl_renders_an_overlay_of_a_site(tmp_path, components):
    if not kubectl_of_today():
        pytest.skip("no kubectl that knows components, as Debian 12 has none")
    shutil.copytree(FOLDER, tmp_path / "base")
    overlay = {"resources": ["../base"], "components": []}
    overlay["components"] = [f"../base/{one}" for one in components]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    names = {(one["kind"], one["metadata"]["name"]) for one in made}
    spaces = {one["metadata"].get("namespace") for one in made}
    assert spaces == {"sentinode", None}
    assert [one["kind"] for one in made if "namespace" not in one["metadata"]] == [
        "Namespace"
    ]
    assert (("Deployment", "trainer") in names) is ("trainer" in components)
    volumes = {
        volume["persistentVolumeClaim"]["claimName"]
        for one in made
        if one["kind"] in {"Deployment", "StatefulSet", "Job"}
        for volume in pod(one)["volumes"]
        if "persistentVolumeClaim" in volume
    }
    claims = {name for kind, name in names if kind == "PersistentVolumeClaim"}
    assert volumes == claims
    assert ("sentinode-data" in claims) is ("object-store" not in components)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_every_pod_meets_the_restricted_standard_and_has_limits(workload):
    spec = pod(workload)
    (container,) = spec["containers"]
    confined = container["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert confined["readOnlyRootFilesystem"] is True
    assert confined["allowPrivilegeEscalation"] is False
    assert confined["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    if workload["kind"] != "Job":
        for probe in (container["livenessProbe"], container["startupProbe"]):
            assert "exec" in probe or probe["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_no_pod_has_a_secret_in_its_environment(workload):
    (container,) = pod(workload)["containers"]
    assert all("valueFrom" not in one for one in container.get("env", ()))
    assert container["envFrom"] == [{"configMapRef": {"name": "sentinode-settings"}}]


def test_every_variable_is_a_setting_and_none_is_a_secret():
    data = named("ConfigMap")["sentinode-settings"]["data"]
    extra = {
        one["name"]
        for w in WORKLOADS
        for c in pod(w)["containers"]
        for one in c.get("env", ())
    }
    assert data.keys() | extra <= settings_of(TrainingSettings)
    for name in data.keys() | extra:
        if any(word in name for word in ("PASSWORD", "SECRET", "TOKEN")):
            assert name.endswith("_FILE")


def test_every_queue_has_its_workers():
    taken = set()
    for workload in WORKLOADS:
        command = pod(workload)["containers"][0]["command"]
        if "-Q" in command:
            taken |= set(command[command.index("-Q") + 1].split(","))
    assert taken == {*queues.QUEUE_OF.values(), training_queues.TRAINING}


@pytest.mark.parametrize("name", ["beat", "training-beat", "trainer", "monitor"])
def test_what_must_be_alone_never_overlaps_with_its_successor(name):
    spec = named("Deployment")[name]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_what_the_trainer_made_outlives_its_pod_whatever_holds_the_spool():
    (container,) = pod(named("Deployment")["trainer"])["containers"]
    mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    settings = load(TrainingSettings, data_dir="/var/lib/sentinode")
    assert mounted[str(settings.workshop)] == "workshop"


def test_the_monitor_is_scraped_with_its_token_and_asked_after_without():
    (container,) = pod(named("Deployment")["monitor"])["containers"]
    service = named("Service")["monitor"]["spec"]
    env = {one["name"]: one["value"] for one in container["env"]}
    settings = load(
        WorkerSettings,
        data_dir="/var/lib/sentinode",
        host=env["SENTINODE_HOST"],
        http_host=env["SENTINODE_HTTP_HOST"],
        http_token_file=env["SENTINODE_HTTP_TOKEN_FILE"],
    )
    (port,) = container["ports"]
    assert port["containerPort"] == DEFAULT_HTTP_PORT
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert service["publishNotReadyAddresses"] is True
    assert service["clusterIP"] == "None"
    assert settings.listener.host in named("Service")
    told = named("ConfigMap")["sentinode-settings"]["data"]["SENTINODE_MONITORS"]
    assert told == "monitor"


def test_prometheus_of_the_cluster_asks_the_monitor():
    path = FOLDER.parent / "monitoring" / "kubernetes.yml"
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    token = Path(job["authorization"]["credentials_file"])
    (container,) = pod(named("Deployment")["monitor"])["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert found["names"] == ["monitor.sentinode.svc"]
    assert found["port"] == DEFAULT_HTTP_PORT
    assert token.name == Path(env["SENTINODE_HTTP_TOKEN_FILE"]).name
    assert shutil.which("promtool"), "run `make peers`"
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pool_of_gpus_asks_for_one_for_each_process():
    (container,) = pod(named("Deployment")["analysis-gpu"])["containers"]
    command = container["command"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert command[command.index("--concurrency") + 1] == "1"
    assert {"name": "SENTINODE_DEVICE", "value": "cuda"} in container["env"]


def test_what_is_scaled_and_what_is_protected_exists():
    workloads = {one["metadata"]["name"]: one for one in WORKLOADS}
    for name, scaled in named("ScaledObject").items():
        target = scaled["spec"]["scaleTargetRef"]["name"]
        (trigger,) = scaled["spec"]["triggers"]
        assert target == name
        assert target in workloads
        assert trigger["metadata"]["query"] == "max(sentinode_queue_age_seconds)"
    for budget in named("PodDisruptionBudget").values():
        labels = budget["spec"]["selector"]["matchLabels"]
        (found,) = [
            one
            for one in workloads.values()
            if labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert found["spec"]["replicas"] > budget["spec"]["minAvailable"]


def test_the_network_is_closed_but_for_what_is_named():
    policies = named("NetworkPolicy")
    assert policies["nothing"]["spec"]["podSelector"] == {}
    assert set(policies["nothing"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    entered = [one for one in policies.values() if one["spec"].get("ingress")]
    assert [one["metadata"]["name"] for one in entered] == ["dicom-in", "prometheus-in"]
    (dicom,) = policies["dicom-in"]["spec"]["ingress"]
    assert {one["port"] for one in dicom["ports"]} == {11112, 2762}


def test_a_listener_keeps_its_name_when_its_pod_is_replaced():
    assert "listener" in named("StatefulSet")


def test_the_object_store_takes_the_place_of_the_volume_that_all_pods_write():
    overlay = yaml.safe_load(
        (FOLDER / "object-store" / "kustomization.yaml").read_text()
    )
    workloads, settings, volume = overlay["patches"]
    (replaced,) = yaml.safe_load(workloads["patch"])
    added = {
        one["path"].removeprefix("/data/") for one in yaml.safe_load(settings["patch"])
    }

    assert replaced["path"] == "/spec/template/spec/volumes/0"
    assert set(workloads["target"]["kind"].split("|")) == {w["kind"] for w in WORKLOADS}
    for workload in WORKLOADS:
        assert (
            pod(workload)["volumes"][0]["name"] == replaced["value"]["name"] == "data"
        )
    assert "SENTINODE_STORE_URL" in added
    assert added <= settings_of(WorkerSettings)
    assert volume["target"]["name"] in named("PersistentVolumeClaim")
