"""Tasks on Ray Train: [1] what each worker of a group does."""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from kd_ray.errors import KdRayError
from kd_ray.on_ray.relay import warnings_sent
from kd_ray.on_ray.storage import check_here
from kd_ray.runs.task import Task

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
    from kd_ray.training.progress import Epoch
    from kd_ray.training.workers import Worker, from_first, together

    context = ray.train.get_context()
    on_gpu = config["gpus"] and torch.cuda.is_available()  # nodes may but count as having GPUs
    device = get_device() if on_gpu else torch.device("cpu")
    worker = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        threads=config["cpus"],
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
