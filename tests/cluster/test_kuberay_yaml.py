"""`cluster/kuberay.yaml` has only fields that KubeRay knows; on a Kubernetes it was not run.

The fields are those of the RayJob definition, ray.io/v1, that this file uses or could be mistaken for.
"""

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from sm_search.cli.main import build_parser
from sm_search.search.space.space_file import SPACES

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "cluster/kuberay.yaml").read_text())
SPEC = DOCUMENT["spec"]
CLUSTER = SPEC["rayClusterSpec"]
GROUP = {"rayStartParams": dict, "template": dict, "resources": dict, "labels": dict}
FIELDS: dict[str, dict[str, type]] = {
    "job": {
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "submissionMode": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "suspend": bool,
        "rayClusterSpec": dict,
    },
    "cluster": {
        "rayVersion": str,
        "authOptions": dict,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": dict,
        "headGroupSpec": dict,
        "workerGroupSpecs": list,
    },
    "auth": {"mode": str, "secretName": str},
    "autoscaler": {"version": str, "idleTimeoutSeconds": int, "upscalingMode": str, "resources": dict},
    "head": GROUP,
    "worker": {**GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int},
    "container": {"name": str, "image": str, "env": list, "envFrom": list, "resources": dict, "volumeMounts": list},
}


def parts() -> list[tuple[str, dict[str, Any]]]:
    groups = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
    return [
        ("job", SPEC),
        ("cluster", CLUSTER),
        ("auth", CLUSTER["authOptions"]),
        ("autoscaler", CLUSTER["autoscalerOptions"]),
        ("head", CLUSTER["headGroupSpec"]),
        *(("worker", group) for group in CLUSTER["workerGroupSpecs"]),
        *(("container", c) for group in groups for c in group["template"]["spec"]["containers"]),
    ]


@pytest.mark.parametrize(("kind", "part"), parts())
def test_fields_are_known_and_of_their_type(kind: str, part: dict[str, Any]) -> None:
    assert {
        name: type(value) for name, value in part.items() if not isinstance(value, FIELDS[kind].get(name, ()))
    } == {}


def test_it_is_a_ray_job_of_our_ray_with_a_token() -> None:
    assert (DOCUMENT["apiVersion"], DOCUMENT["kind"]) == ("ray.io/v1", "RayJob")
    assert CLUSTER["rayVersion"] == version("ray")
    assert CLUSTER["authOptions"]["mode"] == "token"


def test_ray_start_parameters_are_strings() -> None:
    for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_nothing_is_left_and_nothing_runs_while_nothing_waits() -> None:
    assert SPEC["shutdownAfterJobFinishes"]
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in CLUSTER["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]


def test_one_group_has_gpus_and_the_other_the_label_of_simulation() -> None:
    gpus = {
        group["groupName"]: container["resources"]["limits"].get("nvidia.com/gpu", 0)
        for group in CLUSTER["workerGroupSpecs"]
        for container in group["template"]["spec"]["containers"]
    }
    assert gpus == {"gpu": 1, "cpu": 0}
    assert {group["groupName"]: group["labels"]["pool"] for group in CLUSTER["workerGroupSpecs"]} == {
        "gpu": "gpu",
        "cpu": "cpu",
    }


def test_the_entrypoint_is_a_line_that_we_understand() -> None:
    program, *arguments = shlex.split(SPEC["entrypoint"])
    options = build_parser().parse_args(arguments)
    assert program == "sm-search"
    # The image has the checkout in /sm_search.
    assert (SPACES.parent / Path(options.space).relative_to("/sm_search")).is_file()
    assert options.storage.startswith("s3://")
    assert options.data.startswith(options.storage)
