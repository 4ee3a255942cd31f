"""A Slurm batch script that starts Ray on the nodes of its job, waits for it, and runs."""

from cluster.render.manifest import manifest
from cluster.render.options import SlurmOptions
from cluster.render.shape import Shape
from cluster.render.workload import Workload, is_url, versions
from kd_ray.errors import ConfigError


def slurm(workload: Workload, shape: Shape, options: SlurmOptions) -> str:
    """The script; runs are kept in `runs` where it is submitted unless the workload says otherwise.

    Raises:
        ConfigError: an option breaks a rule.
    """
    for option, path in (("--runs", workload.runs), ("--data", workload.data)):
        if path is not None and path.startswith("~"):
            raise ConfigError(f"{option}: must not begin with ~, but got {path}; write it out")
    data = workload.data
    if data and not (is_url(data) or data.startswith("/")):
        raise ConfigError(f"--data: must be an absolute path or a URL, but got {data}")
    end = "END_OF_RECIPE"  # the word that ends a here-document must not be a line of it
    while end in workload.recipe.splitlines():
        end += "_"
    return manifest(
        "slurm.sh", workload=workload, shape=shape, options=options, end=end, **versions()
    )
