"""Tasks on Ray Train: [1] what each worker of a group does, and [2] the driver that starts them.

One worker group performs all the tasks it is given, one after the other, because starting a group
costs 10 to 20 seconds. Artefacts and resume are the stages' own; Ray Train starts the workers,
joins them in a process group, and replaces those that die. Nothing is reported through Ray: events
travel in a queue and checkpoints lie in the run folder, so a run looks alike with and without Ray.
"""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import KdRayError
from kd_ray.files import scratch_folder, to_path
from kd_ray.on_ray.head import has_own_head
from kd_ray.on_ray.placement import (
    Placement,
    check_here,
    check_nodes,
    cluster_nodes,
    counted,
    share_out,
)
from kd_ray.on_ray.private import lean_trainer
from kd_ray.on_ray.relay import (
    Mailbox,
    beside_driver,
    died_too_often,
    helpers_needed,
    relay,
    warnings_sent,
)
from kd_ray.on_ray.session import connected
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task
from kd_ray.training.progress import Epoch

ENDING_S = 300.0
"""For workers that were asked to end with their epoch."""
NOTICE_S = 2.0
"""Seconds from one time that workers ask for a notice to the next."""


def work(config: dict[str, Any]) -> None:
    """[1] One worker of the group: performs the tasks, sends what happens to the driver.

    A `KdRayError` is sent and not raised: it would be the same after a restart of the group.
    Warnings are sent as their text.
    """
    import ray.train
    import torch
    from ray.train.torch import get_device

    from kd_ray.runs import ShardDone, perform_all, perform_interleaved
    from kd_ray.training.workers import Worker, from_first, together

    context = ray.train.get_context()
    placement: Placement = config["placement"]
    on_gpu = placement.gpus and torch.cuda.is_available()  # nodes may but count as having GPUs
    device = get_device() if on_gpu else torch.device("cpu")
    worker = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        threads=placement.cpus,
        noticed=Notices(device),
    )
    mailbox, orders = config["mailbox"], config["orders"]
    tasks: Sequence[Task] = config["tasks"]
    with warnings_sent(mailbox) if worker.is_first else nullcontext():
        try:
            with together(device):
                problem = check_here(tasks[0].run, config["scratch"])
                if problem is not None:
                    raise problem
            perform = perform_interleaved if config["interleaved"] else perform_all
            for task, event in perform(tasks, worker):
                if worker.is_first or isinstance(event, ShardDone):
                    mailbox.put((task, event))
                if isinstance(event, Epoch):
                    ended = worker.is_first and _ended(orders, task, event.number)
                    if from_first(int(ended), device):  # all leave together
                        return
        except KdRayError as error:
            if worker.is_first:
                mailbox.put(error)


def _ended(orders: Any, task: Task, epoch: int) -> bool:
    """Whether the driver has ended the work; an epoch that it awaits waits for what it says."""
    awaited = (task.title, epoch) if epoch in task.awaited else None
    while awaited or not orders.empty():
        if (order := orders.get()) in ("end", awaited):  # others are for workers that have died
            return bool(order == "end")
    return False


class Notices:
    """Asks Ray Train whether a node of this training will be taken away, see `Worker.noticed`."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._nodes: set[str] = set()
        self._asked_at = time.monotonic()

    def __call__(self) -> bool:
        """Whether there is a node that was not known to go."""
        import ray.train

        from kd_ray.training.workers import from_first

        due = time.monotonic() - self._asked_at >= NOTICE_S
        if not from_first(int(due), self._device):  # Ray's answer costs all workers a meeting
            return False
        self._asked_at = time.monotonic()
        info = ray.train.get_preemption_info()
        going = set() if info is None else set(info.preempted_node_ids)
        news = bool(going - self._nodes)
        self._nodes |= going
        return news


def torch_config() -> Any:
    """Ray Train's way to a process group, but each worker speaks through its node's own address.

    Gloo takes the address that the host's name has, and on many a machine that is the loopback one.
    """
    from ray.train.torch import TorchConfig

    class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            able = worker_group.execute(_speak_through_own_address)
            if not all(able):  # Ray takes NCCL wherever workers were given GPUs
                backend_config = replace(backend_config, backend="gloo")
            super().on_start(worker_group, backend_config)

    class OwnAddress(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return Backend

    return OwnAddress()


def _speak_through_own_address() -> bool:
    """Prepares a worker for its process group; says whether it can use NCCL."""
    import psutil
    import ray.util
    import torch

    own = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    for interface, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    return torch.cuda.is_available()


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
        placement = share_out(resources, cluster_nodes())
        yield tasks[0], Waiting(f"Starting {counted(placement)}")
        check_nodes(run, scratch, placement)
        mailbox, orders = Mailbox(), Mailbox()
        config = {
            "tasks": list(tasks),
            "placement": placement,
            "mailbox": mailbox,
            "orders": orders,
            "interleaved": interleaved,
            "scratch": str(scratch),
        }
        controller = begin(config, resources, verbose)
        training = controller.run.remote()
        try:
            for task, event in relay(mailbox, tasks[0], lambda: not _is_over(training, 0)):
                yield task, event
                if isinstance(event, Epoch) and event.number in task.awaited:
                    orders.put((task.title, event.number))
        except GeneratorExit:  # whoever listened has seen enough, and may need the workers' place
            orders.put("end")
            _is_over(training, ENDING_S)
            raise
        problem = outcome(controller, training)
        if problem is not None:
            raise problem


def _is_over(training: Any, patience_s: float) -> bool:
    import ray

    return bool(ray.wait([training], timeout=patience_s)[0])


def begin(config: dict[str, Any], resources: Resources, verbose: bool) -> Any:
    """Ray Train's controller of a group of workers, which is yet to `run`."""
    import ray.train

    trainer = lean_trainer(beside_driver(), own_head=has_own_head())(
        work,
        train_loop_config=config,
        torch_config=torch_config(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.elastic or resources.workers,  # type: ignore[arg-type]
            use_gpu=config["placement"].gpus > 0,
            resources_per_worker=config["placement"].asked,
            placement_strategy=resources.placement.upper(),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name="group",
            storage_path=config["scratch"],
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="INFO" if verbose else "ERROR"),
        ),
    )
    return trainer.fit().controller


def outcome(controller: Any, training: Any) -> Exception | None:
    """What went wrong with a training that is over, in terms of this project."""
    import ray
    from ray.exceptions import RayActorError

    with helpers_needed():
        ray.get(training)
        error = ray.get(controller.get_result.remote()).error
    if error is None:
        return None
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or failure
        if isinstance(cause, KdRayError):
            return cause
        if isinstance(cause, RayActorError):
            return died_too_often(f"worker {rank}:", cause)
    return RuntimeError(str(error))  # Ray's own classes do not all unpickle elsewhere
