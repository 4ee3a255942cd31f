"""Tasks on Ray Train: [1] the worker function, [2] the driver that starts it and relays events.

One worker group performs all the tasks it is given, one after the other, because starting a group
costs 10 to 20 seconds. Artefacts and resume are the stages' own; Ray Train starts the workers,
joins them in a process group, and replaces those that die. Nothing is reported through Ray: events
travel in a queue and checkpoints lie in the run folder, so a run looks alike with and without Ray.
"""

import shutil
import tempfile
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import ClusterError, KdRayError
from kd_ray.files import TEMPORARY
from kd_ray.on_ray.session import Placement, connected, place
from kd_ray.stages.events import Event, Waiting
from kd_ray.stages.task import Task

POLL_S = 0.25
ENDING_S = 300.0
"""For workers that were asked to end with their epoch."""


def work(config: dict[str, Any]) -> None:
    """[1] One worker of the group: performs the tasks, sends what happens to the driver.

    A `KdRayError` is sent and not raised: it would be the same after a restart of the group.
    Warnings are sent as their text.
    """
    import ray.train
    import torch
    from ray.train.torch import get_device

    from kd_ray.labelling import ShardDone
    from kd_ray.loop import Epoch
    from kd_ray.stages import perform_abreast, perform_all
    from kd_ray.workers import Worker, from_first

    context = ray.train.get_context()
    device = get_device() if config["gpus"] else torch.device("cpu")
    worker = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        threads=config["cpus"],
    )
    mailbox, orders = config["mailbox"], config["orders"]
    tasks: Sequence[Task] = config["tasks"]
    with warnings.catch_warnings():
        if worker.is_first:
            warnings.showwarning = lambda message, *_, **__: mailbox.put(str(message))
        try:
            perform = perform_abreast if config["abreast"] else perform_all
            for task, event in perform(tasks, worker):
                if worker.is_first or isinstance(event, ShardDone):
                    mailbox.put((task, event))
                if isinstance(event, Epoch):
                    told = worker.is_first and not orders.empty()
                    if from_first(int(told), device):  # all leave together
                        return
        except KdRayError as error:
            if worker.is_first:
                mailbox.put(error)


def perform_on_ray(
    tasks: Sequence[Task],
    resources: Resources,
    *,
    address: str | None = None,
    verbose: bool = False,
    abreast: bool = False,
) -> Generator[tuple[Task, Event]]:
    """[2] Performs tasks on a group of Ray Train workers and yields their events as they come.

    Args:
        tasks: as for `stages.perform_all`.
        resources: how many workers, and what each gets.
        address: HOST:PORT of a cluster; None for this machine.
        verbose: let Ray's own log lines through.
        abreast: an epoch of each task in turn, as `stages.perform_abreast` does it.

    Closing the generator ends the workers after the epoch they are in.

    Raises:
        KdRayError: what a worker raised.
        ClusterError: the workers do not fit, or died more often than `max_failures`.
    """
    if not tasks:
        return
    with connected(address, verbose):
        import ray
        from ray.util.queue import Empty, Queue

        placement = place(resources)
        yield tasks[0], Waiting(f"Starting {_counted(placement)}")
        mailbox, orders = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
        config = {
            "tasks": list(tasks),
            "cpus": placement.cpus,
            "gpus": placement.gpus,
            "mailbox": mailbox,
            "orders": orders,
            "abreast": abreast,
        }
        # `fit` blocks and takes over Ctrl-C. In a process of its own it does neither here, and dies
        # with this one.
        launched = ray.remote(num_cpus=0, max_retries=0)(launch).remote(config, resources, verbose)
        try:
            while True:
                over, _ = ray.wait([launched], timeout=0)
                try:
                    message = mailbox.get(timeout=POLL_S)
                except Empty:
                    if over:
                        break
                    continue
                if isinstance(message, KdRayError):
                    raise message
                if isinstance(message, str):
                    warnings.warn(message, stacklevel=2)
                    continue
                yield message
        except GeneratorExit:  # whoever listened has seen enough, and may need the workers' place
            # They are asked to end: of a launcher that is killed, Ray keeps the workers' place.
            orders.put("end")
            ray.wait([launched], timeout=ENDING_S)
            ray.cancel(launched, force=True)
            raise
        error = ray.get(launched)
        if error is not None:
            raise error


def _counted(placement: Placement) -> str:
    """Workers in words.

    >>> _counted(Placement(workers=2, cpus=4, gpus=1))
    '2 Ray workers (4 CPU, 1 GPU each)'
    """
    gpus = f", {placement.gpus} GPU" if placement.gpus else ""
    each = " each" if placement.workers > 1 else ""
    workers = "1 Ray worker" if placement.workers == 1 else f"{placement.workers} Ray workers"
    return f"{workers} ({placement.cpus} CPU{gpus}{each})"


def launch(config: dict[str, Any], resources: Resources, verbose: bool) -> Exception | None:
    """Runs `TorchTrainer.fit` to its end; returns what went wrong, in terms of this project."""
    import ray.train
    from ray.train.torch import TorchTrainer

    # Ray Train would resume what it finds under an old name. This folder must be seen from all
    # nodes, as the run folder is; what a killed driver leaves of it is removed as a draft.
    Path(config["tasks"][0].run).mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f"{TEMPORARY}ray-", dir=config["tasks"][0].run)
    try:
        TorchTrainer(
            work,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=config["gpus"] > 0,
                resources_per_worker={
                    "CPU": config["cpus"],
                    **({"GPU": config["gpus"]} if config["gpus"] else {}),
                },
            ),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg]
                name="group",
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="INFO" if verbose else "ERROR"),
            ),
        ).fit()
    except ray.train.TrainingFailedError as error:
        return in_our_terms(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return None


def in_our_terms(error: Exception) -> Exception:
    """A lost worker as a `ClusterError`; another failure as an error that tells its cause."""
    from ray.exceptions import RayActorError

    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or failure
        if isinstance(cause, KdRayError):
            return cause
        if isinstance(cause, RayActorError):
            return ClusterError(
                f"worker {rank}: must stay alive, but died more often than "
                f"resources.max_failures allows ({str(cause).splitlines()[0]}); look for a lack of "
                "memory, then run the same again to go on from the last epoch"
            )
    return RuntimeError(str(error))  # Ray's own classes do not all unpickle elsewhere
