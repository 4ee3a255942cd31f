import functools
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from render_cases import (
    SECRET,
    SECRETS,
    SHIPPED,
    bash,
    hostile,
    hostile_recipe,
    recorded,
    recorder,
    strict,
)

from cluster.render.options import KubeRayOptions, NodesOptions
from cluster.render.shape import Shape, shape_of
from cluster.render.targets import LONGEST_NAME, kuberay, render
from cluster.render.workload import Workload, dns_name
from kd_ray.config import Resources
from kd_ray.errors import ConfigError
from kd_ray.on_ray.placement import Node, share_out

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the file is long


@functools.cache
def ray_job_schema() -> jsonschema.Draft202012Validator:
    """KubeRay's own schema of a RayJob, with unknown keys refused."""
    root = os.environ.get("KD_RAY_DATA")
    path = Path(root or "") / "kuberay" / "ray.io_rayjobs.yaml"
    if root is None or not path.is_file():
        pytest.skip("KubeRay's schemas are looked for in KD_RAY_DATA")
    text = path.read_text(encoding="utf-8")
    versions = yaml.load(text, Loader=FAST)["spec"]["versions"]
    [v1] = [version for version in versions if version["name"] == "v1"]
    schema = strict(v1["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # of Kubernetes itself, not of the CRD
    return jsonschema.Draft202012Validator(schema)


def parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob, the second one checked."""
    files, job = yaml.safe_load_all(text)
    assert (files["apiVersion"], files["kind"]) == ("v1", "ConfigMap")
    assert all(isinstance(value, str) for value in files["data"].values())
    ray_job_schema().validate(job)
    return files, job


def group(job: dict[str, Any]) -> dict[str, Any]:
    [found] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return found


def worker(job: dict[str, Any]) -> dict[str, Any]:
    [container] = group(job)["template"]["spec"]["containers"]
    return container


def head(job: dict[str, Any]) -> dict[str, Any]:
    [container] = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    return container


def test_the_schema_is_strict_where_kubernetes_would_drop_a_key():
    _, job = parts(render("kuberay", "quickstart"))
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["templates"] = {}
    with pytest.raises(jsonschema.ValidationError, match="templates"):
        ray_job_schema().validate(job)


@pytest.mark.parametrize("recipe", SHIPPED)
def test_kuberay_accepts_every_shipped_recipe(recipe: str):
    files, job = parts(render("kuberay", recipe))
    assert files["metadata"]["name"] == job["metadata"]["name"]
    assert job["spec"]["entrypoint"] == "bash /etc/kd-ray/job.sh"
    assert f'name = "{recipe}"' in files["data"]["recipe.toml"]
    assert worker(job)["resources"]["limits"]["nvidia.com/gpu"] == "1"


FULL = {
    "image": "registry.example/kd-ray:1",
    "spot": True,
    "volume": "team-nfs",
    "mount": "/mnt/team",
    "token_secret": "ray-token",
    "credentials": "bucket-keys",
    "namespace": "research",
    "node_label": ("cloud.google.com/gke-accelerator=nvidia-l4", "tier=y"),
}


@pytest.mark.parametrize("placement", ["pack", "spread"])
def test_kuberay_accepts_every_option_at_once(placement: str):
    text = render(
        "kuberay",
        "mnist-sweep",
        ["resources.elastic=[2, 6]", f"resources.placement={placement}"],
        command="tune run",
        package="git+https://example.org/kd-ray.git@v1",
        **FULL,
    )
    files, job = parts(text)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == {
        "pip": ["git+https://example.org/kd-ray.git@v1"]
    }
    for container in (head(job), worker(job)):
        assert container["envFrom"] == [{"secretRef": {"name": "bucket-keys"}}]
        assert container["image"] == "registry.example/kd-ray:1"
        assert {"name": "shared", "mountPath": "/mnt/team"} in container["volumeMounts"]
    template = group(job)["template"]["spec"]
    assert template["nodeSelector"]["tier"] == "y"
    assert ("topologySpreadConstraints" in template) == (placement == "spread")
    assert "kd-ray tune run " in files["data"]["job.sh"]


resources = st.builds(
    dict,
    cpus_per_worker=st.one_of(st.just("auto"), st.integers(1, 64)),
    gpus_per_worker=st.sampled_from(["auto", 0, 1, 0.5, 0.25, 0.3, 0.1, 0.01]),
    bounds=st.tuples(st.integers(1, 40), st.integers(0, 20)),
    elastic=st.booleans(),
    placement=st.sampled_from(["pack", "spread"]),
).map(
    lambda drawn: Resources(
        cpus_per_worker=drawn["cpus_per_worker"],
        gpus_per_worker=drawn["gpus_per_worker"],
        placement=drawn["placement"],
        **(
            {"elastic": (drawn["bounds"][0], sum(drawn["bounds"]))}
            if drawn["elastic"]
            else {"workers": drawn["bounds"][0]}
        ),
    )
)


def held_by(resources: Resources, shape: Shape) -> int:
    """Workers that one node holds, by plain arithmetic."""
    gpus = resources.gpus_per_worker
    each_gpu = (1.0 if shape.gpus else 0.0) if gpus == "auto" else gpus
    each_cpu = 1 if resources.cpus_per_worker == "auto" else resources.cpus_per_worker
    by_cpu = shape.cpus // each_cpu
    # A share of a GPU lies on one GPU; 0.3 fits three times.
    by_gpu = shape.gpus * int(1 / each_gpu + 1e-9) if each_gpu else by_cpu
    return min(by_cpu, by_gpu)


@given(
    resources,
    st.one_of(st.none(), st.integers(0, 8)),
    st.one_of(st.none(), st.integers(1, 96)),
)
@settings(max_examples=60)
def test_the_nodes_of_a_manifest_hold_the_fewest_workers_and_may_grow_to_the_most(
    resources: Resources, gpus: int | None, cpus: int | None
):
    try:
        shape = shape_of(resources, NodesOptions(gpus_per_node=gpus, cpus_per_node=cpus))
    except ConfigError:
        assume(False)
    fewest, most = resources.elastic or (resources.workers, resources.workers)
    assert held_by(resources, shape) * shape.nodes >= fewest
    assert held_by(resources, shape) * shape.max_nodes >= most
    _, job = parts(kuberay(Workload("x", "name = 'x'\n", ("run",)), shape, KubeRayOptions()))
    workers = group(job)
    assert workers["minReplicas"] == workers["replicas"] == shape.nodes
    assert workers["maxReplicas"] == shape.max_nodes
    amounts = worker(job)["resources"]["limits"]
    assert int(amounts["cpu"]) == shape.cpus
    assert int(amounts.get("nvidia.com/gpu", 0)) == shape.gpus
    # And kd-ray itself, on that cluster, finds room for them.
    share_out(resources, [Node(0), *[Node(shape.cpus, shape.gpus)] * shape.nodes])


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_every_name_of_a_recipe_becomes_a_name_that_kubernetes_takes(name: str):
    found = dns_name(name, LONGEST_NAME)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) <= LONGEST_NAME


def test_names_that_differ_stay_different():
    names = ["run_1", "run-1", "Run-1", "run.1", "x" * 60, "x" * 61, "1", "kd-1"]
    assert len({dns_name(name) for name in names}) == len(names)
    assert dns_name("run-1") == "run-1"


@given(hostile, hostile)
@settings(max_examples=12)
def test_the_job_gets_hostile_text_as_it_was_typed(
    tmp_path_factory: pytest.TempPathFactory, comment: str, value: str
):
    folder = tmp_path_factory.mktemp("job")
    source = hostile_recipe(folder, comment)
    runs = f"/shared/{value}"
    text = render("kuberay", str(source), [f"data.root=/shared/{value}"], runs=runs)
    files, _ = parts(text)
    assert files["data"]["recipe.toml"] == source.read_text(encoding="utf-8")
    recorder(folder / "bin", folder / "record")
    done = bash(files["data"]["job.sh"], folder, folder / "bin", RAY_ADDRESS="x")
    assert done.returncode == 0, done.stderr
    assert recorded(folder / "record") == [
        *("run", "/etc/kd-ray/recipe.toml", "--runs", runs),
        *("--set", f"data.root=/shared/{value}"),
    ]
    assert not list(folder.rglob("pwned"))


def test_no_token_or_credential_of_the_environment_gets_in(monkeypatch: pytest.MonkeyPatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert SECRET not in render("kuberay", "mnist", **FULL)


def test_runs_in_an_object_store_need_no_volume():
    _, job = parts(render("kuberay", "mnist", runs="s3://bucket/runs", credentials="keys"))
    assert "persistentVolumeClaim" not in str(job)
    assert "KD_RAY_DATA" not in str(job)


def test_strings_that_readers_of_yaml_disagree_on_are_quoted():
    text = render("kuberay", "mnist", namespace="y", volume="1e3")
    assert "namespace: 'y'" in text
    assert "claimName: '1e3'" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"volume": "Team_NFS"}, "--volume: must be the name of a Kubernetes object"),
        (
            {"runs": "/elsewhere/runs"},
            "--runs: must be a URL or lie on the shared storage, below",
        ),
        ({"runs": "/shared/../etc"}, "--runs: must be a URL or lie on the shared storage"),
        ({"data": "/elsewhere"}, "--data: must be a URL or lie on the shared storage"),
        ({"mount": "shared"}, "--mount: must be an absolute path"),
        ({"node_label": ("gpu",)}, "--node-label: must be key=value"),
        ({"image": "a\nb"}, "--image: must be one line"),
    ],
)
def test_an_option_that_breaks_a_rule_is_answered(options: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        render("kuberay", "mnist", **options)


def test_a_script_that_is_no_ray_job_does_not_start_a_ray_of_its_own(tmp_path: Path):
    files, _ = parts(render("kuberay", "mnist"))
    recorder(tmp_path / "bin", tmp_path / "record")
    done = bash(files["data"]["job.sh"], tmp_path, tmp_path / "bin", RAY_ADDRESS="")
    assert done.returncode
    assert "submit this script as a Ray Job" in done.stderr
    assert not (tmp_path / "record").exists()
