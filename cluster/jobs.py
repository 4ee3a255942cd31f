"""Ray Jobs: a command that a user would type, run beside the head of a cluster.

What travels is the package and the recipe, a few hundred kilobytes; data, runs and environments are
the cluster's own.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from cluster.server import answering, job_client
from kd_ray.config import Recipe
from kd_ray.errors import ClusterError
from kd_ray.on_ray.session import shipped_code

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

LIVE = ("PENDING", "RUNNING")
RUN_KEY, RECIPE_FILE = "kd-ray run", "recipe.toml"
PASSED_ON = ("KD_RAY_DATA",)
"""Variables of the user's that a job gets: places, and never a secret."""


@dataclass(frozen=True)
class Job:
    """A job as the server knows it.

    Attributes:
        id: for `logs`, `stop` and `status`.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        command: that it runs.
        run: folder of the run that it makes.
        message: what the server says about it.
        started: UNIX seconds, or None.
        ended: UNIX seconds, or None.
        exit_code: of the command, or None.
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
        """Whether it is still to end."""
        return self.status in LIVE


def submit(dashboard: str, command: Sequence[str], run: str, recipe: Recipe | None) -> Job:
    """Submits a command.

    Args:
        dashboard: URL of the cluster's.
        command: arguments of `kd-ray`, in which `recipe.toml` is the recipe that travels.
        run: absolute folder or URL of the run that it makes, its key.
        recipe: what travels; None if the command needs none.

    Returns:
        The job as it was accepted.

    Raises:
        ClusterError: a live job makes the same run, or the server does not take it.
    """
    client = job_client(dashboard)
    earlier = [job for job in jobs(dashboard) if job.run == run]
    for job in earlier:
        if job.is_live:
            raise ClusterError(
                f"{run}: one job at a time may make a run, but {job.id} is {job.status.lower()}; "
                f"see it with `kd-ray cluster logs {job.id} --follow`, end it with `kd-ray cluster "
                f"stop {job.id}`, or choose another name with --set name=..."
            )
    number = 1 + max((_number(job.id) for job in earlier), default=0)
    with _luggage(recipe) as folder, answering(dashboard), _accepted():
        given = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "kd_ray", *command]),
            submission_id=f"{run.rstrip('/').rpartition('/')[2]}-{number}",
            metadata={RUN_KEY: run},
            runtime_env={
                "working_dir": str(folder),
                "env_vars": {
                    "PYTHONUNBUFFERED": "1",
                    **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
                },
            },
        )
    return status(dashboard, given)


def _number(job_id: str) -> int:
    number = job_id.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


@contextlib.contextmanager
def _luggage(recipe: Recipe | None) -> Iterator[Path]:
    """A folder with what travels."""
    with tempfile.TemporaryDirectory(prefix="kd-ray-job-") as name:
        folder = Path(name)
        for package in map(Path, shipped_code()["py_modules"]):
            hidden = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(package, folder / package.name, ignore=hidden)
        if recipe is not None:
            table = recipe.model_dump(mode="json", exclude_none=True)
            (folder / RECIPE_FILE).write_text(tomli_w.dumps(table), encoding="utf-8")
        yield folder


@contextlib.contextmanager
def _accepted() -> Iterator[None]:
    """Turns what a job server refuses into a `ClusterError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise ClusterError(
            f"the job server: must do what it is asked, but answered: {lines[-1][:300]}; look at "
            "`kd-ray cluster jobs`"
        ) from error


def jobs(dashboard: str) -> list[Job]:
    """All jobs of this project's that a cluster has and had, the oldest first.

    Raises:
        ClusterError: the server does not answer.
    """
    with answering(dashboard), _accepted():
        found = job_client(dashboard).list_jobs()
    ours = [_job(details) for details in found if RUN_KEY in (details.metadata or {})]
    return sorted(ours, key=lambda job: job.started or 0.0)


def status(dashboard: str, job_id: str) -> Job:
    """A job.

    Raises:
        ClusterError: there is none of this id, or the server does not answer.
    """
    for job in jobs(dashboard):
        if job.id == job_id:
            return job
    known = ", ".join(job.id for job in jobs(dashboard)) or "none"
    raise ClusterError(f"job {job_id!r}: must be one that was submitted, but known are: {known}")


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
    """What a job has printed so far.

    Raises:
        ClusterError: see `status`.
    """
    status(dashboard, job_id)
    with answering(dashboard), _accepted():
        return job_client(dashboard).get_job_logs(job_id)


def follow(dashboard: str, job_id: str) -> Iterator[str]:
    """What a job prints, as it comes, until it ends.

    Raises:
        ClusterError: see `status`.
    """
    status(dashboard, job_id)
    lines = job_client(dashboard).tail_job_logs(job_id)
    with answering(dashboard), _accepted(), asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(_next(lines))
            except StopAsyncIteration:
                return


async def _next(lines: Any) -> str:
    return str(await anext(lines))


def stop(dashboard: str, job_id: str) -> Job:
    """Asks a job to end, as Ctrl-C would, and waits until it has.

    Raises:
        ClusterError: see `status`.
    """
    if status(dashboard, job_id).is_live:
        with answering(dashboard), _accepted():
            job_client(dashboard).stop_job(job_id)
        for _ in follow(dashboard, job_id):
            pass
    return status(dashboard, job_id)
