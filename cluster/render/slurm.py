"""A Slurm batch script that starts Ray on the nodes of its job, waits for it by asking, and runs.

The script is `slurm.sh` beside this module, with `@@{...}` for what depends on the recipe.
"""

import shlex
from collections.abc import Sequence
from importlib import resources
from string import Template

from cluster.render.options import SlurmOptions
from cluster.render.shape import Shape
from cluster.render.workload import Workload, is_url, kd_ray_version
from kd_ray.errors import ConfigError

NOTICE_S = 120  # between the first signal and the end: enough for an epoch's checkpoint to land


class ScriptTemplate(Template):
    """`@@{name}`, since scripts are full of dollars."""

    delimiter = "@@"


def slurm(workload: Workload, shape: Shape, options: SlurmOptions) -> str:
    """The script; runs are kept in `runs` where it is submitted unless the workload says otherwise.

    Raises:
        ConfigError: an option breaks a rule.
    """
    for option, path in (("--runs", workload.runs), ("--data", workload.data)):
        if path is not None and path.startswith("~"):
            raise ConfigError(f"{option}: must not begin with ~, but got {path}; write it out")
    data = workload.data or ""
    if data and not (is_url(data) or data.startswith("/")):
        raise ConfigError(f"--data: must be an absolute path or a URL, but got {data}")
    nodes = f"{shape.nodes}-{shape.max_nodes}" if shape.grows else f"{shape.nodes}"
    directives = [
        f"job-name={workload.name}",
        f"nodes={nodes}",
        "ntasks-per-node=1",
        f"cpus-per-task={shape.cpus}",
        *([f"gpus-per-node={shape.gpus}"] if shape.gpus else []),
        *([f"mem={shape.memory_gib}G"] if shape.memory_gib else []),
        *(["spread-job"] if shape.spread else []),
        # A job of nodes that may come and go outlives a lost one.
        *(["no-kill"] if shape.grows else []),
        "requeue",
        "open-mode=append",
        f"signal=B:USR1@{NOTICE_S}",
        *options.sbatch,
    ]
    folder = resources.files("cluster.render")
    template = ScriptTemplate((folder / "slurm.sh").read_text(encoding="utf-8"))
    return template.substitute(
        directives="\n".join(f"#SBATCH --{directive}" for directive in directives),
        name=workload.name,
        version=kd_ray_version(),
        runs=shlex.quote(workload.runs or ""),
        data=shlex.quote(data),
        command=shlex.join(["kd-ray", *workload.words]),
        overrides=shlex.join(word for text in workload.overrides for word in ("--set", text)),
        cpus=shape.cpus,
        gpus=shape.gpus,
        setup="\n".join(options.setup) or "# (none: kd-ray, ray and python are on the PATH)",
        recipe=workload.recipe,
        end=_absent_from(workload.recipe.splitlines()),
    )


def _absent_from(lines: Sequence[str]) -> str:
    """A word that ends a here-document of these lines, and not before their end."""
    word = "END_OF_RECIPE"
    while word in lines:
        word += "_"
    return word
