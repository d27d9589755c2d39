"""The Kubernetes manifests: valid by the published schemas, and confined."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from worker import queues
from worker.settings import WorkerSettings

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
FOREIGN = {
    "Kustomization",
    "ScaledObject",
}  # of kustomize and KEDA: no schema published


def documents() -> list[dict]:
    files = sorted(FOLDER.glob("*.yaml"))
    return [one for file in files for one in yaml.safe_load_all(file.read_text())]


WORKLOADS = [
    one for one in documents() if one["kind"] in {"Deployment", "StatefulSet", "Job"}
]


def named(kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in documents() if one["kind"] == kind}


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


def test_the_kustomization_names_every_manifest():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


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
        assert container["livenessProbe"]["exec"]["command"]
        assert container["startupProbe"]["exec"]["command"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_no_pod_has_a_secret_in_its_environment(workload):
    (container,) = pod(workload)["containers"]
    assert all("valueFrom" not in one for one in container.get("env", ()))
    assert container["envFrom"] == [{"configMapRef": {"name": "sentinode-settings"}}]


def test_every_variable_is_a_setting_and_none_is_a_secret():
    fields = {f"SENTINODE_{name.upper()}" for name in WorkerSettings.model_fields}
    data = named("ConfigMap")["sentinode-settings"]["data"]
    extra = {
        one["name"]
        for w in WORKLOADS
        for c in pod(w)["containers"]
        for one in c.get("env", ())
    }
    assert data.keys() | extra <= fields
    for name in data:
        if "PASSWORD" in name or "SECRET" in name:
            assert name.endswith("_FILE")


def test_every_queue_has_its_workers():
    taken = set()
    for workload in WORKLOADS:
        command = pod(workload)["containers"][0]["command"]
        if "-Q" in command:
            taken |= set(command[command.index("-Q") + 1].split(","))
    assert taken == set(queues.QUEUE_OF.values())


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
    assert [one["metadata"]["name"] for one in entered] == ["dicom-in"]


def test_a_listener_keeps_its_name_when_its_pod_is_replaced():
    assert "listener" in named("StatefulSet")


def test_the_object_store_takes_the_place_of_the_volume_that_all_pods_write():
    overlay = yaml.safe_load(
        (FOLDER / "object-store" / "kustomization.yaml").read_text()
    )
    workloads, settings, volume = overlay["patches"]
    (replaced,) = yaml.safe_load(workloads["patch"])
    fields = {f"SENTINODE_{name.upper()}" for name in WorkerSettings.model_fields}
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
    assert added <= fields
    assert volume["target"]["name"] in named("PersistentVolumeClaim")
