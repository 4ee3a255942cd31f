"""Ray Jobs: a command that a user would type, run beside the head of a cluster.

What travels is the package, the recipe and the code of the user's own that it names, a few hundred
kilobytes; data, weights, runs and environments are the cluster's own.
"""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from cluster.server import answering, job_client
from kd_ray.catalog import suggestion
from kd_ray.config import Recipe
from kd_ray.errors import ClusterError
from kd_ray.on_ray.session import shipped_code

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

LIVE = ("PENDING", "RUNNING")
RUN_KEY, RECIPE_FILE = "kd-ray run", "recipe.toml"
PASSED_ON = ("KD_RAY_DATA",)
"""Variables of the user's environment that a job gets: places, and never a secret."""


@dataclass(frozen=True)
class Job:
    """A job as the server knows it: what follows `kd-ray`, the run it makes, UNIX seconds.

    Its `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
    """

    id: str
    status: str
    command: str
    run: str
    message: str
    started: float | None
    ended: float | None
    exit_code: int | None

    @property
    def is_live(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in LIVE


def submit(dashboard: str, command: Sequence[str], run: str, recipe: Recipe | None) -> Job:
    """Submits a command, in which `recipe.toml` is the recipe that travels, if there is one.

    A job is known by the absolute folder or URL of the run that the command makes.

    Raises:
        ClusterError: a live job makes the same run, or the server does not take it.
    """
    listed = _listed(dashboard)
    for job in _ours(listed):
        if job.run == run and job.is_live:
            raise ClusterError(
                f"{run}: one job at a time may make a run, but {job.id} is {job.status.lower()}; "
                f"watch it with `kd-ray cluster logs {job.id} --follow`, end it with "
                f"`kd-ray cluster stop {job.id}`, or choose another name with --set name=..."
            )
    job_id = next_id(
        run.rstrip("/").rpartition("/")[2], [str(each.submission_id) for each in listed]
    )
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables = {"PYTHONUNBUFFERED": "1", **passed_on}
    with _luggage(recipe) as folder, _asking(dashboard, "run a job") as client:
        client.submit_job(
            entrypoint=shlex.join(["python", "-m", "kd_ray", *command]),
            submission_id=job_id,
            metadata={RUN_KEY: run},
            runtime_env={"working_dir": str(folder), "env_vars": variables},
        )
    return status(dashboard, job_id)


def next_id(name: str, taken: Sequence[str]) -> str:
    """The id of a job, which is another than those of all jobs that the cluster knows.

    >>> next_id("mnist", ["mnist-1", "mnist-9", "mnist-quick-12", "mnist-x"])
    'mnist-10'
    """
    numbers = [each.removeprefix(f"{name}-") for each in taken if each.startswith(f"{name}-")]
    return f"{name}-{1 + max((int(n) for n in numbers if n.isdecimal()), default=0)}"


@contextlib.contextmanager
def _luggage(recipe: Recipe | None) -> Iterator[Path]:
    """A folder with what travels."""
    with tempfile.TemporaryDirectory(prefix="kd-ray-job-") as name:
        folder = Path(name)
        hidden = shutil.ignore_patterns("__pycache__", ".*")
        for source in map(Path, shipped_code()["py_modules"]):
            if source.is_dir():
                shutil.copytree(source, folder / source.name, ignore=hidden)
            else:
                shutil.copy(source, folder)
        if recipe is not None:
            table = recipe.model_dump(mode="json", exclude_none=True, exclude={"code"})
            (folder / RECIPE_FILE).write_text(tomli_w.dumps(table), encoding="utf-8")
        yield folder


@contextlib.contextmanager
def _asking(dashboard: str, request: str) -> Iterator["JobSubmissionClient"]:
    """The client of a job server, whose refusal becomes a `ClusterError`."""
    client = job_client(dashboard)
    with answering(dashboard):
        try:
            yield client
        except (RuntimeError, ValueError) as error:
            code = re.search(r"status code (\d+)", str(error))
            reason = [line for line in str(error).splitlines() if line.strip(" .")][-1][:300]
            raise ClusterError(
                f"{dashboard}: the job server answered {code[1] if code else 'no'} to the request "
                f"to {request}: {reason}; look at `kd-ray cluster jobs`"
            ) from error


def jobs(dashboard: str) -> list[Job]:
    """All jobs of kd-ray that a cluster has and had, the oldest first; see `_asking` for errors."""
    return _ours(_listed(dashboard))


def _listed(dashboard: str) -> "list[JobDetails]":
    with _asking(dashboard, "list jobs") as client:
        return client.list_jobs()


def _ours(listed: "list[JobDetails]") -> list[Job]:
    ours = [_job(details) for details in listed if RUN_KEY in (details.metadata or {})]
    return sorted(ours, key=lambda job: job.started or 0.0)


def status(dashboard: str, job_id: str) -> Job:
    """A job.

    Raises:
        ClusterError: there is none of this id, or the server does not answer.
    """
    known = {job.id: job for job in jobs(dashboard)}
    if job_id not in known:
        raise ClusterError(
            f"job {job_id!r}: must be one that was submitted to {dashboard}; "
            f"{suggestion(job_id, known) if known else 'there is none yet'}"
        )
    return known[job_id]


def _job(details: "JobDetails") -> Job:
    assert details.submission_id is not None
    metadata: dict[str, Any] = details.metadata or {}
    return Job(
        id=details.submission_id,
        status=str(details.status.value),
        command=details.entrypoint.removeprefix("python -m kd_ray "),
        run=metadata[RUN_KEY],
        message=details.message or "",
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
    )


def logs(dashboard: str, job_id: str) -> str:
    """What a job has printed so far; see `status` for errors."""
    status(dashboard, job_id)
    with _asking(dashboard, "show logs") as client:
        return client.get_job_logs(job_id)


def follow(dashboard: str, job_id: str) -> Iterator[str]:
    """What a job prints, as it comes, until it ends; see `status` for errors."""
    status(dashboard, job_id)
    with _asking(dashboard, "follow logs") as client, asyncio.Runner() as runner:
        lines = client.tail_job_logs(job_id)
        while True:
            try:
                yield runner.run(_next(lines))
            except StopAsyncIteration:
                return


async def _next(lines: Any) -> str:
    return str(await anext(lines))


def stop(dashboard: str, job_id: str) -> Job:
    """Asks a job to end, as Ctrl-C would, and waits until it has; see `status` for errors."""
    if status(dashboard, job_id).is_live:
        with _asking(dashboard, "stop a job") as client:
            client.stop_job(job_id)
        for _ in follow(dashboard, job_id):
            pass
    return status(dashboard, job_id)
