"""A KubeRay `RayJob`: a cluster that is made for one job and goes away with it.

The head has no CPUs for Ray to give away: it runs the driver and the autoscaler on a node that is
never a spot node, and the workers do the work.
"""

import re
from typing import Any

from cluster.render.manifest import manifest
from cluster.render.shape import Shape
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    kd_ray_version,
    one_line,
    ray_version,
    script,
    shared_folders,
)
from kd_ray.errors import ConfigError

LONGEST_NAME = 47  # KubeRay refuses longer ones: it appends to them
FILES = "/etc/kd-ray"
USERS_GROUP = 100  # the group of the user `ray` in Ray's images
HEAD = {"cpu": "2", "memory": "8Gi"}
# The labels of spot nodes on Google, AWS (managed groups, Karpenter) and Azure; one is enough.
SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
MEMORY_PER_CPU_GIB = 4
LEAST_MEMORY_GIB = 8
LABEL_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def kuberay(
    job: Workload,
    shape: Shape,
    *,
    image: str | None = None,
    spot: bool = False,
    volume: str = "kd-ray",
    mount: str = "/shared",
    token_secret: str | None = None,
    credentials: str | None = None,
    namespace: str | None = None,
    node_label: tuple[str, ...] = (),
) -> str:
    """The manifest: a ConfigMap with recipe and script, and the RayJob.

    Args:
        job: what to run; its runs are kept in `/shared/runs` unless it says otherwise.
        shape: nodes, each of which becomes a pod.
        image: has Ray, and kd-ray unless the job names a package.
        spot: workers go to spot nodes only.
        volume: claim of a volume that all pods may mount and write.
        mount: where pods see it.
        token_secret: has Ray's token as `auth_token`; None lets KubeRay make one for each cluster.
        credentials: a secret whose keys become variables, such as those of an object store.
        namespace: of everything here; None for that of kubectl.
        node_label: `key=value` that nodes of workers must have.

    Raises:
        ConfigError: an option breaks a rule.
    """
    image = one_line("--image", image or default_image(job, shape.gpus))
    runs = job.runs or f"{mount}/runs"
    mounted = bool(shared_folders(job, runs, mount))
    for option, given in (
        ("--volume", volume),
        ("--token-secret", token_secret),
        ("--credentials", credentials),
        ("--namespace", namespace),
    ):
        if given is not None and not OBJECT_NAME.fullmatch(given):
            raise ConfigError(
                f"{option}: must be the name of a Kubernetes object, of small letters, digits, "
                f"dots and dashes, but got {given!r}"
            )
    name = dns_name(job.name, LONGEST_NAME)
    metadata: dict[str, Any] = {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "labels": {"app.kubernetes.io/name": "kd-ray", "app.kubernetes.io/instance": name},
    }
    container = {
        "image": image,
        "env": _environment(job, mount if mounted else None),
        **({"envFrom": [{"secretRef": {"name": credentials}}]} if credentials else {}),
    }
    storage = {"name": "shared", "persistentVolumeClaim": {"claimName": volume}}
    volumes = [storage] if mounted else []
    mounts = [{"name": "shared", "mountPath": mount}] if mounted else []
    head = _pod(
        {**container, "name": "ray-head", "resources": {"requests": HEAD, "limits": HEAD}},
        [*volumes, {"name": "kd-ray", "configMap": {"name": name}}],
        [*mounts, {"name": "kd-ray", "mountPath": FILES, "readOnly": True}],
    )
    cluster: dict[str, Any] = {
        "rayVersion": ray_version(),
        "authOptions": {
            "mode": "token",
            **({"secretName": token_secret} if token_secret else {}),
        },
        "enableInTreeAutoscaling": shape.grows,
        **({"autoscalerOptions": {"idleTimeoutSeconds": 300}} if shape.grows else {}),
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": shape.nodes,
                "minReplicas": shape.nodes,
                "maxReplicas": shape.max_nodes,
                "rayStartParams": {},
                "template": _workers(shape, name, container, volumes, mounts, spot, node_label),
            }
        ],
    }
    spec: dict[str, Any] = {
        "entrypoint": f"bash {FILES}/job.sh",
        # Another attempt goes on where the last one was.
        "backoffLimit": 2,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60,
        **({"runtimeEnvYAML": f"pip: [{_quoted(job.package)}]\n"} if job.package else {}),
        "rayClusterSpec": cluster,
    }
    files = {"recipe.toml": job.recipe, "job.sh": script(job, f"{FILES}/recipe.toml", runs)}
    return manifest(
        _header(job, image, runs, volume if mounted else None, token_secret),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec},
    )


def _header(
    job: Workload, image: str, runs: str, volume: str | None, token_secret: str | None
) -> list[str]:
    held = f"a claim named {volume!r} that many nodes may write" if volume else "that storage"
    token = f"the secret {token_secret!r}" if token_secret else "a secret that KubeRay makes"
    package = job.package or f"kd-ray {kd_ray_version()}"
    where = "installed in it" if job.package else "which it must hold"
    return [
        f"Recipe {job.name!r} for KubeRay 1.6 or newer. Start it with kubectl apply -f FILE; after",
        "kubectl delete -f FILE the same again goes on where it was.",
        f"Image: {image}, with Ray {ray_version()} and {package}, {where}.",
        f"Runs: {runs}; needs {held}. Ray's token: {token}.",
    ]


def _environment(job: Workload, mount: str | None) -> list[dict[str, str]]:
    data = job.data or (f"{mount}/data" if mount else None)
    found = {"RAY_USAGE_STATS_ENABLED": "0"} | ({"KD_RAY_DATA": data} if data else {})
    return [{"name": name, "value": value} for name, value in found.items()]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _pod(
    container: dict[str, Any], volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    mounts = [*mounts, {"name": "memory", "mountPath": "/dev/shm"}]
    return {
        "spec": {
            # Without this the user of Ray's images may not write a fresh volume.
            "securityContext": {
                "fsGroup": USERS_GROUP,
                "fsGroupChangePolicy": "OnRootMismatch",
            },
            "containers": [{**container, "volumeMounts": mounts}],
            # Ray's objects and NCCL live in shared memory, of which pods have 64 MB by default.
            "volumes": [*volumes, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        }
    }


def _workers(
    shape: Shape,
    name: str,
    container: dict[str, Any],
    volumes: list[dict[str, Any]],
    mounts: list[dict[str, Any]],
    spot: bool,
    node_label: tuple[str, ...],
) -> dict[str, Any]:
    memory = shape.memory_gib or max(LEAST_MEMORY_GIB, MEMORY_PER_CPU_GIB * shape.cpus)
    amounts = {"cpu": str(shape.cpus), "memory": f"{memory}Gi"}
    if shape.gpus:
        amounts["nvidia.com/gpu"] = str(shape.gpus)
    resources = {"requests": amounts, "limits": dict(amounts)}
    pod = _pod({**container, "name": "ray-worker", "resources": resources}, volumes, mounts)
    labels = {"kd-ray/workers-of": name}
    selector = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    affinity: dict[str, Any] = {}
    tolerations: list[dict[str, str]] = []
    if shape.spread:
        pod["spec"]["topologySpreadConstraints"] = [
            {**selector, "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
        ]
    else:
        near = {"weight": 100, "podAffinityTerm": selector}
        affinity["podAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": [near]}
    if shape.gpus:
        tolerations.append(
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        )
    if spot:
        terms = [
            {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
            for key, value in SPOT_LABELS.items()
        ]
        required = {"nodeSelectorTerms": terms}
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
        tolerations += [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in SPOT_LABELS.items()
        ]
    if affinity:
        pod["spec"]["affinity"] = affinity
    if tolerations:
        pod["spec"]["tolerations"] = tolerations
    if node_label:
        pod["spec"]["nodeSelector"] = dict(_label(text) for text in node_label)
    return {"metadata": {"labels": labels}, **pod}


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not LABEL_NAME.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
        raise ConfigError(
            f"--node-label: must be key=value of a Kubernetes label, but got {text!r}; such as "
            "cloud.google.com/gke-accelerator=nvidia-l4"
        )
    return key, value
