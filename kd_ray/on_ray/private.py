"""What Ray has no public way to do: the one place where its private names are used.

Each is a function here that says why it is needed; a test calls for each and names the version of
Ray that has it no more. As a program, it asks the head of a cluster who it is. It imports nothing
of this package, so that such a program starts quickly.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

ANSWERED, TOKEN_WRONG = "answered", "token"
LOG_NAMES = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of the job client, which tell of uploads and of ends of logs."""


def gcs_client() -> Any:
    """The class that speaks with a head: nothing public asks whether it takes one's token."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient


def worker_module() -> Any:
    """The module with `print_to_stdstream`, which prints what nodes log and has no switch."""
    from ray._private import worker

    return worker


def dashboard_lookup() -> Callable[[str], str]:
    """From HOST:PORT of a head to the URL of its dashboard, which only the job client looks up."""
    from ray.dashboard.utils import get_address_for_submission_client

    return get_address_for_submission_client


def hush_lost_nodes() -> None:
    """Keeps the last lines of a dead node's log off the terminal, in this process.

    Ray prints them whatever `log_to_driver` says.
    """
    module = worker_module()
    if hasattr(module, "print_to_stdstream"):
        module.print_to_stdstream = lambda *_, **__: None


def trial_logger() -> logging.Logger:
    """Where Ray Tune logs, with its trace, that a trial's actor has died, whatever `verbose` is."""
    from ray.tune.execution import tune_controller

    return tune_controller.logger


@contextlib.contextmanager
def lost_trials_hushed() -> Iterator[None]:
    """Keeps the traces of lost actors off the terminal: the sweep says that their trials go on."""
    from ray.exceptions import RayActorError

    def is_news(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, RayActorError)

    logger = trial_logger()
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keeps this process's own answer to SIGTERM, in the block and afterwards.

    Ray would put its own in the place, and below that one of C++, which aborts.
    """
    from ray._private import utils

    own, theirs = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)


@contextlib.contextmanager
def own_interpreter() -> Iterator[None]:
    """Has Ray heed RAY_ENABLE_UV_RUN_RUNTIME_ENV in the block, whenever it was imported.

    Ray reads it at import alone, which a script or a notebook may do before this project sets it.
    """
    from ray._private import ray_constants

    theirs = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0":
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = theirs


@contextlib.contextmanager
def lean_head() -> Iterator[None]:
    """Has Ray start no helpers in the block that a head for one driver alone has no use for.

    These are the autoscaler, the server of the dashboard, which Ray starts and waits for even where
    it is told to leave the dashboard out, and the reader of logs; the dashboard's agent, without
    which no node starts, does without all that it can. Each imports much.
    """
    from ray._private import node, services

    def start(command: list[str], *arguments: Any, **options: Any) -> Any:
        agent = "--dashboard_agent_command="
        least = [f"{word} --minimal" if word.startswith(agent) else word for word in command]
        return started(least, *arguments, **options)

    helpers = ("start_monitor", "start_log_monitor", "start_api_server")
    theirs, started = (
        {name: getattr(node.Node, name) for name in helpers},
        services.start_ray_process,
    )
    try:
        for name in helpers:
            setattr(node.Node, name, lambda *_, **__: None)
        services.start_ray_process = start
        yield
    finally:
        for name, method in theirs.items():
            setattr(node.Node, name, method)
        services.start_ray_process = started


def lean_trainer(place: dict[str, Any], *, own_head: bool) -> Any:
    """Ray Train's `TorchTrainer`, whose `fit` begins the training and returns its `controller`.

    Ray's own waits for the end inside, where nothing reaches it: a thread that waits so when Ray is
    shut down takes the whole process along. Two processes are left out that start whether needed
    or not. One shares out data sets of Ray's, of which there are none here. Another frees the place
    of workers whose driver has died; with a head that dies with its driver that is nothing to do.

    Args:
        place: options of the controller as an actor, which is to run beside this process.
        own_head: whether the head dies with this driver.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    idle = (DatasetsCallback, PlacementGroupCleanerCallback) if own_head else (DatasetsCallback,)

    trainer: Any = TorchTrainer

    class LeanTrainer(trainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            # That of data sets makes a context of Ray's, which warns of its own options.
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if not isinstance(callback, idle)]

        def _initialize_and_run_controller(self, **options: Any) -> Any:
            variables = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
            kind = ray.remote(**place, runtime_env={"env_vars": variables})(TrainController)
            return SimpleNamespace(controller=kind.remote(**options), error=None)

    return LeanTrainer


def head_answer(address: str, patience_s: float) -> str:
    """What the head of a cluster says when it is asked: `ANSWERED`, `TOKEN_WRONG` or anything else.

    In a process of its own: Ray's client retries for a minute and cannot be told not to.
    """
    command = [sys.executable, "-P", __file__, address]  # -P: the modules beside it are not for it
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience_s, check=False
        )
    except subprocess.TimeoutExpired:
        return "silence"
    return done.stdout.strip().rpartition("\n")[2] or done.stderr


def _ask(address: str) -> str:
    from ray.exceptions import AuthenticationError

    try:
        gcs_client()(address=address).internal_kv_get(b"session_name", b"session", timeout=5)
    except AuthenticationError:
        return TOKEN_WRONG
    return ANSWERED


if __name__ == "__main__":
    sys.stdout.write(_ask(sys.argv[1]))
