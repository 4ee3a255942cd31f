"""Tasks on Ray Train: [2] the driver that starts the workers and relays what they tell.

One worker group performs all the tasks it is given, one after the other, because starting a group
costs 10 to 20 seconds. Artefacts and resume are the stages' own; Ray Train starts the workers,
joins them in a process group, and replaces those that die. Nothing is reported through Ray: events
travel in a queue and checkpoints lie in the run folder, so a run looks alike with and without Ray.
"""

from collections.abc import Generator, Sequence
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import KdRayError
from kd_ray.files import scratch_folder, to_path
from kd_ray.on_ray.placement import cluster_nodes, counted, share_out
from kd_ray.on_ray.relay import beside_driver, died_too_often, helpers_needed, relay
from kd_ray.on_ray.session import connected
from kd_ray.on_ray.storage import check_nodes
from kd_ray.on_ray.work import torch_config, work
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task

ENDING_S = 300.0
"""For workers that were asked to end with their epoch."""


def perform_on_ray(
    tasks: Sequence[Task],
    resources: Resources,
    *,
    address: str | None = None,
    verbose: bool = False,
    interleaved: bool = False,
) -> Generator[tuple[Task, Event]]:
    """[2] Performs tasks on a group of Ray Train workers and yields their events as they come.

    Args:
        tasks: as for `stages.perform_all`.
        resources: how many workers, and what each gets.
        address: HOST:PORT of a cluster; None for this machine.
        verbose: let Ray's own log lines through.
        interleaved: an epoch of each task in turn, as `stages.perform_interleaved` does it.

    Closing the generator ends the workers after the epoch they are in.

    Raises:
        KdRayError: what a worker raised.
        ClusterError: the workers do not fit, or died more often than `max_failures`.
    """
    if not tasks:
        return
    run = to_path(tasks[0].run)
    # Ray Train would resume what it finds under an old name, so it is given a folder of its own;
    # what a killed driver leaves of that is removed as a draft.
    with connected(address, verbose), scratch_folder(run, "ray") as scratch:
        import ray
        from ray.util.queue import Queue

        placement = share_out(resources, cluster_nodes())
        yield tasks[0], Waiting(f"Starting {counted(placement)}")
        check_nodes(run, scratch, placement)
        mailbox, orders = (Queue(actor_options=beside_driver()) for _ in range(2))
        config = {
            "tasks": list(tasks),
            "cpus": placement.cpus,
            "gpus": placement.gpus,
            "asked": placement.asked,
            "mailbox": mailbox,
            "orders": orders,
            "interleaved": interleaved,
            "scratch": str(scratch),
        }
        # `fit` blocks and takes over Ctrl-C. In a process of its own it does neither here, and dies
        # with this one.
        launched = ray.remote(max_retries=0, **beside_driver())(launch).remote(
            config, resources, verbose
        )
        try:
            yield from relay(mailbox, tasks[0], lambda: not ray.wait([launched], timeout=0)[0])
        except GeneratorExit:  # whoever listened has seen enough, and may need the workers' place
            # They are asked to end: of a launcher that is killed, Ray keeps the workers' place.
            orders.put("end")
            ray.wait([launched], timeout=ENDING_S)
            ray.cancel(launched, force=True)
            raise
        with helpers_needed():
            error = ray.get(launched)
        if error is not None:
            raise error


def launch(config: dict[str, Any], resources: Resources, verbose: bool) -> Exception | None:
    """Runs `TorchTrainer.fit` to its end; returns what went wrong, in terms of this project."""
    import ray.train
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=torch_config(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.elastic or resources.workers,  # type: ignore[arg-type]
            use_gpu=config["gpus"] > 0,
            resources_per_worker=config["asked"],
            placement_strategy=resources.placement.upper(),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name="group",
            storage_path=config["scratch"],
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="INFO" if verbose else "ERROR"),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        return in_our_terms(error)
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
            return died_too_often(f"worker {rank}:", cause)
    return RuntimeError(str(error))  # Ray's own classes do not all unpickle elsewhere
