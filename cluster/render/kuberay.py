"""A KubeRay `RayJob`: a cluster that is made for one job and goes away with it.

The head has no CPUs for Ray to give away: it runs the driver and the autoscaler on a node that is
never a spot node, and the workers do the work.
"""

from typing import Any

from cluster.render.manifest import manifest
from cluster.render.options import KubeRayOptions
from cluster.render.shape import Shape
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    kd_ray_version,
    ray_version,
    script,
    shared_folders,
)

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


def kuberay(workload: Workload, shape: Shape, options: KubeRayOptions) -> str:
    """The manifest: a ConfigMap with recipe and script, and the RayJob.

    Runs are kept in `runs` of the shared storage unless the workload says otherwise.

    Raises:
        ConfigError: an option breaks a rule.
    """
    image = options.image or default_image(options.package, shape.gpus)
    mount, package = options.mount, options.package
    runs = workload.runs or f"{mount}/runs"
    mounted = bool(shared_folders(workload, runs, mount))
    name = dns_name(workload.name, LONGEST_NAME)
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": options.namespace,
        "labels": {"app.kubernetes.io/name": "kd-ray", "app.kubernetes.io/instance": name},
    }
    container = {
        "image": image,
        "env": _environment(workload, mount if mounted else None),
        "envFrom": [{"secretRef": {"name": options.credentials}}] if options.credentials else None,
    }
    storage = {"name": "shared", "persistentVolumeClaim": {"claimName": options.volume}}
    volumes = [storage] if mounted else []
    mounts = [{"name": "shared", "mountPath": mount}] if mounted else []
    head = _pod(
        {**container, "name": "ray-head", "resources": {"requests": HEAD, "limits": HEAD}},
        [*volumes, {"name": "kd-ray", "configMap": {"name": name}}],
        [*mounts, {"name": "kd-ray", "mountPath": FILES, "readOnly": True}],
    )
    cluster: dict[str, Any] = {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token", "secretName": options.token_secret},
        "enableInTreeAutoscaling": shape.grows,
        "autoscalerOptions": {"idleTimeoutSeconds": 300} if shape.grows else None,
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": shape.nodes,
                "minReplicas": shape.nodes,
                "maxReplicas": shape.max_nodes,
                "rayStartParams": {},
                "template": _workers(shape, name, container, volumes, mounts, options),
            }
        ],
    }
    spec: dict[str, Any] = {
        "entrypoint": f"bash {FILES}/job.sh",
        # Another attempt goes on where the last one was.
        "backoffLimit": 2,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60,
        "runtimeEnvYAML": f"pip: [{_quoted(package)}]\n" if package else None,
        "rayClusterSpec": cluster,
    }
    files = {
        "recipe.toml": workload.recipe,
        "job.sh": script(workload, f"{FILES}/recipe.toml", runs),
    }
    return manifest(
        _header(workload, image, runs, mounted, options),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec},
    )


def _header(
    workload: Workload, image: str, runs: str, mounted: bool, options: KubeRayOptions
) -> list[str]:
    claim = f"a claim named {options.volume!r} that many nodes may write"
    secret = f"the secret {options.token_secret!r}"
    package = options.package or f"kd-ray {kd_ray_version()}"
    return [
        f"Recipe {workload.name!r} for KubeRay 1.6 or newer. Start it with kubectl apply -f FILE;",
        "after kubectl delete -f FILE the same again goes on where it was.",
        f"Image: {image}, with Ray {ray_version()} and {package}, "
        f"{'installed in it' if options.package else 'which it must hold'}.",
        f"Runs: {runs}; needs {claim if mounted else 'that storage'}. "
        f"Ray's token: {secret if options.token_secret else 'a secret that KubeRay makes'}.",
    ]


def _environment(workload: Workload, mount: str | None) -> list[dict[str, str]]:
    data = workload.data or (f"{mount}/data" if mount else None)
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "KD_RAY_DATA": data}
    return [{"name": name, "value": value} for name, value in variables.items() if value]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _pod(
    container: dict[str, Any], volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    mounts = [*mounts, {"name": "memory", "mountPath": "/dev/shm"}]
    return {
        "spec": {
            # Without this the user of Ray's images may not write a fresh volume.
            "securityContext": {"fsGroup": USERS_GROUP, "fsGroupChangePolicy": "OnRootMismatch"},
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
    options: KubeRayOptions,
) -> dict[str, Any]:
    memory = shape.memory_gib or max(LEAST_MEMORY_GIB, MEMORY_PER_CPU_GIB * shape.cpus)
    gpus = str(shape.gpus) if shape.gpus else None
    amounts = {"cpu": str(shape.cpus), "memory": f"{memory}Gi", "nvidia.com/gpu": gpus}
    resources = {"requests": amounts, "limits": amounts}
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
        tolerations += [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if options.spot:
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
    pod["spec"] |= {
        "affinity": affinity or None,
        "tolerations": tolerations or None,
        "nodeSelector": dict(text.split("=") for text in options.node_label) or None,
    }
    return {"metadata": {"labels": labels}, **pod}
