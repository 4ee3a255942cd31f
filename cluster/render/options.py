"""The options of manifests: a field for each, which the command line shows as `--field`.

What a value must be by itself is checked here, and what it must be beside others where it is used.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cluster.commands import RENDERED
from kd_ray.errors import ConfigError

Checked = TypeVar("Checked", bound="Options")
USER_IN_URL = re.compile(r"://[^/\s\"'@]*@")
GIT_USER = re.compile(r"^git\+ssh://git@")
WRITTEN = ("nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "job-name")
"""Directives that come from the recipe."""
LABEL = re.compile(
    r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
    r"=([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?",
    re.ASCII,
)


def one_line(value: str) -> str:
    """A value that goes into a script or a comment: one line that can be printed, not empty."""
    if not value or not value.isprintable():
        raise ValueError(f"must be one line of printable text, but got {value!r}")
    return value


def public(value: str) -> str:
    """A path, URL or package in which nothing looks like a credential."""
    one_line(value)
    secret = USER_IN_URL.search(value) and not GIT_USER.match(value)
    if secret or ("://" in value and "?" in value):
        shown = USER_IN_URL.sub("://...@", value.partition("?")[0])
        raise ValueError(
            f"must hold no credentials, neither a user nor a query, but got {shown}; "
            "let the nodes' environment or a secret give them"
        )
    return value


def _matching(pattern: str | re.Pattern[str], rule: str) -> Any:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {rule}, but got {value!r}")
        return value

    return AfterValidator(check)


OneLine = Annotated[str, AfterValidator(one_line)]
Public = Annotated[str, AfterValidator(public)]
Folder = Annotated[Public, _matching("/.*", "an absolute path")]
OBJECT_RULE = "the name of a Kubernetes object, of small letters, digits, dots and dashes"
ObjectName = Annotated[str, _matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", OBJECT_RULE)]
LABEL_RULE = "key=value of a Kubernetes label, such as cloud.google.com/gke-spot=true"
NodeLabel = Annotated[str, _matching(LABEL, LABEL_RULE)]
Identifier = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9:/@._-]*", "a name or an address")]


def _directive(text: str) -> str:
    directive = public(text).removeprefix("--")
    if not re.fullmatch(r"[a-z][a-z-]*(=[^\s\"'\\#]+)?", directive):
        raise ValueError(f"must be one option of sbatch, such as partition=gpu, but got {text!r}")
    if directive.partition("=")[0] in WRITTEN:
        raise ValueError(
            f"{directive} is written from the recipe; use --nodes, --cpus-per-node, "
            "--gpus-per-node or --set name=... instead"
        )
    return directive


Directive = Annotated[str, AfterValidator(_directive)]


class Options(BaseModel):
    """Options that are given together, checked and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class WorkloadOptions(Options):
    """What a cluster runs; the same for every kind of manifest."""

    command: str = Field(
        default="run", description=f"Command to run: {', '.join(RENDERED)}; run by default."
    )

    runs: Public | None = None
    """Folder of run folders on storage that all nodes reach, or its URL."""

    data: Public | None = None
    """Folder of datasets on the nodes, which becomes their KD_RAY_DATA."""


class NodesOptions(Options):
    """How many nodes there are, and what each of them has; the same for every kind of manifest."""

    nodes: int | None = Field(default=None, ge=1)
    """Nodes to start with; as many as the recipe's workers need by default. More than those let a
    sweep run more trials at once."""

    max_nodes: int | None = Field(default=None, ge=1)
    """Nodes that autoscaling may grow to; as many as the recipe's elastic bounds need by
    default."""

    cpus_per_node: int | None = Field(default=None, ge=1)
    """CPUs of a node; by default enough for the workers that it holds, 4 for each where the recipe
    says auto, and not below 4."""

    gpus_per_node: int | None = Field(default=None, ge=0)
    """GPUs of a node, 0 for none; by default those of one worker, which is one where the recipe
    says auto."""

    memory_per_node: int | None = Field(default=None, ge=1)
    """Memory of a node in GiB; not for vm, whose machines come with theirs."""


class ContainerOptions(Options):
    """What nodes have that run a container or are machines."""

    image: OneLine | None = None
    """Container image with Ray, and with kd-ray unless --package is given; the nodes of vm with
    --provider local have none by default."""

    package: Public | None = None
    """What pip installs on the nodes, such as a URL of kd-ray; by default they have it."""

    spot: bool = False
    """Let the workers run on spot machines."""

    mount: Folder = "/shared"
    """Folder where nodes see the shared storage; /shared by default."""


class KubeRayOptions(ContainerOptions):
    """Options of a RayJob for KubeRay."""

    credentials: ObjectName | None = None
    """Kubernetes secret whose keys become variables, such as those of an object store."""

    volume: ObjectName = "kd-ray"
    """Claim of the volume that holds the shared storage, which many nodes may write; kd-ray by
    default."""

    token_secret: ObjectName | None = None
    """Kubernetes secret that has Ray's token as auth_token; by default KubeRay makes one."""

    namespace: ObjectName | None = None
    """Kubernetes namespace of the job; that of kubectl by default."""

    node_label: tuple[NodeLabel, ...] = ()
    """KEY=VALUE of a label that the workers' nodes must have; may be repeated."""


class SlurmOptions(Options):
    """Options of a Slurm batch script."""

    setup: tuple[OneLine, ...] = ()
    """Command for the shell of each node, before every other one; may be repeated."""

    sbatch: tuple[Directive, ...] = ()
    """Further directive for sbatch, such as partition=gpu; may be repeated."""


class VmOptions(ContainerOptions):
    """Options of a configuration for Ray's cluster launcher."""

    setup: tuple[OneLine, ...] = ()
    """Command for the shell of each node, before every other one; may be repeated."""

    credentials: Identifier | None = None
    """AWS instance profile or Google service account of the machines."""

    provider: str = "aws"
    """Whose machines: aws (the default), gcp, or local for your own."""

    region: Identifier | None = None
    """Region of the cloud; us-west-2 of aws and us-west1 of gcp by default."""

    zone: Identifier | None = None
    """Zone in the region."""

    project: Identifier | None = None
    """Google Cloud project that the machines belong to."""

    instance_type: Identifier | None = None
    """Machine type of the workers; the smallest that has enough by default."""

    head_type: Identifier | None = None
    """Machine type of the head; the smallest with 4 CPUs by default."""

    machine_image: Identifier | None = None
    """Image that the machines start from: an AMI, or an image of Google's."""

    ssh_user: Identifier | None = None
    """User who logs in on the machines; ubuntu by default in a cloud."""

    ssh_key: OneLine | None = None
    """Path of the private key for logging in; the launcher's own by default."""

    head_ip: Identifier | None = None
    """Address of the head, with --provider local."""

    worker_ip: tuple[Identifier, ...] = ()
    """Address of a worker, with --provider local; may be repeated."""


KINDS: Mapping[str, type[Options]] = {
    "kuberay": KubeRayOptions,
    "slurm": SlurmOptions,
    "vm": VmOptions,
}
EVERY_KIND = (WorkloadOptions, NodesOptions)


def flag(field: str) -> str:
    """The command line's word for a field.

    >>> flag("max_nodes")
    '--max-nodes'
    """
    return f"--{field.replace('_', '-')}"


def checked(kind: type[Checked], values: Mapping[str, Any]) -> Checked:
    """The options of a kind from those of `values` that are its fields.

    Raises:
        ConfigError: an option breaks a rule.
    """
    try:
        return kind(**{name: value for name, value in values.items() if name in kind.model_fields})
    except ValidationError as error:
        detail = error.errors()[0]
        rule = detail["msg"].removeprefix("Value error, ")
        if "ge" in detail.get("ctx", {}):
            rule = f"must be at least {detail['ctx']['ge']}, but got {detail['input']}"
        raise ConfigError(f"{flag(str(detail['loc'][0]))}: {rule}") from None


def check_kind(kind: str, given: Mapping[str, Any]) -> None:
    """Refuses options that do not go with a kind of manifest."""
    for name in given:
        kinds = [k for k, options in KINDS.items() if name in options.model_fields]
        if kind not in kinds and not any(name in options.model_fields for options in EVERY_KIND):
            raise ConfigError(
                f"{flag(name)}: goes with {' and '.join(kinds) or 'nothing'}, but got kind {kind}; "
                "leave it out"
            )
