"""A Slurm batch script that starts Ray on the nodes of its job, waits for it by asking, and runs.

The script is `slurm.sh` beside this module, with `@@{...}` for what depends on the recipe.
"""

import re
import shlex
from collections.abc import Sequence
from importlib import resources
from string import Template

from cluster.render.shape import Shape
from cluster.render.workload import Workload, is_url, kd_ray_version, one_line, public
from kd_ray.errors import ConfigError

NOTICE_S = 120  # between the first signal and the end: enough for an epoch's checkpoint to land
DIRECTIVE = re.compile(r"[a-z][a-z-]*(=[^\s\"'\\#]+)?")
OURS = {"nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "job-name"}


class ScriptTemplate(Template):
    """`@@{name}`, since scripts are full of dollars."""

    delimiter = "@@"


def slurm(
    job: Workload,
    shape: Shape,
    *,
    setup: tuple[str, ...] = (),
    sbatch: tuple[str, ...] = (),
) -> str:
    """The script.

    Args:
        job: what to run; its runs are kept in `runs` where it is submitted unless it says
            otherwise.
        shape: nodes, as many as the job has tasks.
        setup: commands for the shell, such as `source /shared/venv/bin/activate`.
        sbatch: further directives, such as `partition=gpu`.

    Raises:
        ConfigError: an option breaks a rule.
    """
    if job.package is not None:
        raise ConfigError(
            f"--package: Slurm jobs use an environment that all nodes see, but got {job.package}; "
            "install kd-ray there, and name it with --setup 'source FOLDER/bin/activate'"
        )
    for option, path in (("--runs", job.runs), ("--data", job.data)):
        if path is not None and path.startswith("~"):
            raise ConfigError(f"{option}: must not begin with ~, but got {path}; write it out")
    if job.data is not None and not (is_url(job.data) or job.data.startswith("/")):
        raise ConfigError(f"--data: must be an absolute path or a URL, but got {job.data}")
    nodes = f"{shape.nodes}-{shape.max_nodes}" if shape.grows else f"{shape.nodes}"
    directives = [
        f"job-name={job.name}",
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
        *(_directive(text) for text in sbatch),
    ]
    for command in setup:
        one_line("--setup", command)
    folder = resources.files("cluster.render")
    template = ScriptTemplate((folder / "slurm.sh").read_text(encoding="utf-8"))
    return template.substitute(
        directives="\n".join(f"#SBATCH --{directive}" for directive in directives),
        name=job.name,
        version=kd_ray_version(),
        runs=shlex.quote(job.runs or ""),
        data=shlex.quote(job.data or ""),
        command=shlex.join(["kd-ray", *job.words]),
        overrides=shlex.join(word for text in job.overrides for word in ("--set", text)),
        cpus=shape.cpus,
        gpus=shape.gpus,
        setup="\n".join(setup) or "# (none: kd-ray, ray and python are on the PATH)",
        recipe=job.recipe,
        end=_absent_from(job.recipe.splitlines()),
    )


def _directive(text: str) -> str:
    directive = public("--sbatch", text).removeprefix("--")
    if not DIRECTIVE.fullmatch(directive):
        raise ConfigError(
            f"--sbatch: must be one option of sbatch, such as partition=gpu, but got {text!r}"
        )
    if directive.partition("=")[0] in OURS:
        raise ConfigError(
            f"--sbatch: {directive} is written from the recipe; use --nodes, --cpus-per-node, "
            "--gpus-per-node or --set name=... instead"
        )
    return directive


def _absent_from(lines: Sequence[str]) -> str:
    """A word that ends a here-document of these lines, and not before their end."""
    word = "END_OF_RECIPE"
    while word in lines:
        word += "_"
    return word
