"""Every private or version-dependent name of Ray, Optuna and torch that is used is still there."""

import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import optuna
import pytest
from torch._compile import _disable_dynamo
from torch.nn.parallel import DistributedDataParallel

from kd_ray.on_ray.private import (
    dashboard_lookup,
    gcs_client,
    lean_head,
    lean_trainer,
    own_interpreter,
    own_sigterm,
    trial_logger,
    worker_module,
)
from kd_ray.on_ray.session import prepare_environment
from kd_ray.training.optimizer import DISABLED
from kd_ray.training.workers import buffers_unsent
from tuning.private import begun_trial


def finished_trial_again() -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    begun = study.ask()
    again = begun_trial(study, study.get_trials()[begun.number])
    study.tell(again, 1.0)
    return study.best_value == 1.0


def kept_sigterm() -> Any:
    with own_sigterm():
        return True


def own_workers() -> Any:
    with own_interpreter():
        return True


def train_names() -> Iterator[tuple[Any, str]]:
    for name in ("_create_default_callbacks", "_initialize_and_run_controller"):
        yield lean_trainer({}, own_head=True).__base__, name
    from ray.train.v2._internal.execution.controller import TrainController

    for name in ("run", "get_result"):
        yield TrainController, name


def no_helpers() -> Any:
    with lean_head():
        return True


RAY: dict[str, Callable[[], Any]] = {
    "ray._raylet.GcsClient": gcs_client,
    "ray._private: node.Node(start_monitor, start_log_monitor, start_api_server) and "
    "services.start_ray_process": no_helpers,
    "ray.train: TorchTrainer(_create_default_callbacks, _initialize_and_run_controller), "
    "DatasetsCallback, PlacementGroupCleanerCallback, get_env_vars_to_propagate and "
    "TrainController(run, get_result)": lambda: all(
        hasattr(kind, name) for kind, name in train_names()
    ),
    "ray.tune.execution.tune_controller.logger": trial_logger,
    "ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV": own_workers,
    "ray._private.utils.set_sigterm_handler": kept_sigterm,
    "ray._private.worker.print_to_stdstream": lambda: worker_module().print_to_stdstream,
    "ray.dashboard.utils.get_address_for_submission_client": dashboard_lookup,
}
OTHERS: dict[str, Callable[[], Any]] = {
    "optuna: FrozenTrial._trial_id": finished_trial_again,
    "torch: __dynamo_disable, which its optimizers look for": lambda: (
        DISABLED in inspect.getsource(_disable_dynamo)
    ),
    "torch: DistributedDataParallel(broadcast_buffers or forward_sync_buffers)": lambda: (
        buffers_unsent(DistributedDataParallel).keys()
        <= inspect.signature(DistributedDataParallel).parameters.keys()
    ),
}


@pytest.mark.parametrize("name", [*RAY, *OTHERS])
def test_a_private_name_is_there_in_the_installed_version(name: str):
    package = "ray" if name in RAY else name.partition(":")[0]
    prepare_environment()  # before Ray is imported
    try:
        found = {**RAY, **OTHERS}[name]()
    except (ImportError, AttributeError, TypeError) as error:
        pytest.fail(f"{package} {version(package)} has no {name} any more ({error})")
    assert found, f"{package} {version(package)} has no {name} any more"
