"""Trials on Ray Tune: [1] the actor that runs one after the other, [2] the driver that feeds it.

Tune places the actors, uses them again, and replaces those that die. Which trials there are, which
are stopped early, and what has become of them is the ledger's: Tune asks it through the three
interfaces below and keeps nothing that is used again, so its own snapshots (pickles) are thrown
away.
"""

import json
import queue
import shutil
import tempfile
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kd_ray.config import Resources
from kd_ray.files import TEMPORARY
from kd_ray.on_ray import Placement, check_nodes, connected, perform_on_ray, trial_slots
from kd_ray.runs import Inputs, Task, perform_interleaved
from kd_ray.training.workers import Worker
from tuning.trial import TrialEnd, TrialEpoch, told
from tuning.trials import Trials

ORCHESTRATOR_BYTES = 256 * 2**20
"""What a trial of several workers asks for itself; its workers ask for CPUs and GPUs."""


class TrialSteps:
    """[1] What a Tune actor does: a trial in steps of some epochs; then another, on the same data.

    The trial trains in a thread of its own, so that it need not wait while the driver looks at what
    it has reported; one that is to be stopped has gone on for a moment by then, and ends within
    its epoch.
    """

    def __init__(self) -> None:
        self._shelf = Inputs()
        self._thread: threading.Thread | None = None
        self._reports: queue.SimpleQueue[TrialEpoch | TrialEnd] = queue.SimpleQueue()
        self._enough = threading.Event()

    def begin(self, config: dict[str, Any]) -> None:
        """Begins a trial."""
        tasks: list[Task] = config["tasks"]
        resources = Resources.model_validate_json(config["resources"])
        self._reports, self._enough = queue.SimpleQueue(), threading.Event()
        enough = self._enough.is_set
        if resources.most_workers > 1:
            events = told(tasks, lambda t: perform_on_ray(t, resources, interleaved=True), enough)
        else:
            worker = self._worker(int(config["cpus"]), bool(config["gpus"]))
            events = told(tasks, lambda t: perform_interleaved(t, worker, self._shelf), enough)
        self._thread = threading.Thread(target=self._train, args=(events,))
        self._thread.start()

    def _worker(self, cpus: int, on_gpu: bool) -> Worker:
        import torch

        usable = on_gpu and torch.cuda.is_available()  # nodes may but count as having GPUs
        device = torch.device("cuda", 0) if usable else torch.device("cpu")
        return Worker(rank=0, world=1, device=device, threads=cpus)

    def _train(self, events: Generator[TrialEpoch | TrialEnd]) -> None:
        with closing(events):
            for event in events:
                self._reports.put(event)

    def step(self) -> dict[str, Any]:
        """What the trial has reported since the last step, at least one thing, as Tune wants it."""
        reports = [self._reports.get()]
        while not self._reports.empty():
            reports.append(self._reports.get())
        if isinstance(reports[-1], TrialEnd):
            return {"done": True, "end": reports[-1].written()}
        return {"done": False, "epochs": json.dumps([asdict(epoch) for epoch in reports])}

    def end(self) -> None:
        """Lets go of a trial, whether it has ended or was stopped."""
        if self._thread is not None:
            self._enough.set()
            self._thread.join()
            self._thread = None


def perform_on_tune(
    trials: Trials,
    resources: Resources,
    scratch: Path,
    *,
    address: str | None = None,
    verbose: bool = False,
) -> None:
    """[2] Runs trials until all are over.

    Args:
        trials: to be run.
        resources: of one trial.
        scratch: folder for what Tune wants to write meanwhile.
        address: HOST:PORT of a cluster; None for this machine.
        verbose: let Ray's own log lines through.

    Raises:
        ClusterError: a trial does not fit the cluster.
    """
    with connected(address, verbose):
        from ray import tune

        placement, slots = trial_slots(resources)
        resources = resources.model_copy(
            update={"cpus_per_worker": placement.cpus, "gpus_per_worker": float(placement.gpus)}
        )
        alone = resources.most_workers == 1
        bundle = placement.asked if alone else {"memory": float(ORCHESTRATOR_BYTES)}
        folder = tempfile.mkdtemp(prefix=f"{TEMPORARY}tune-", dir=scratch)
        check_nodes(trials.folder, scratch, placement)
        slots = min(slots, trials.ledger.left)
        try:
            tune.Tuner(
                tune.with_resources(_actor(), tune.PlacementGroupFactory([bundle])),
                tune_config=tune.TuneConfig(
                    search_alg=_searcher(trials, resources, placement),
                    scheduler=_scheduler(trials),
                    num_samples=-1,
                    max_concurrent_trials=slots,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="trials",
                    storage_path=folder,
                    verbose=0,
                    stop=_stopper(trials),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _actor() -> type:
    from ray import tune

    class TrialActor(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._steps = TrialSteps()
            self._steps.begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._steps.end()
            self._steps.begin(new_config)
            return True

        def step(self) -> dict[str, Any]:
            return self._steps.step()

        def cleanup(self) -> None:
            self._steps.end()

    return TrialActor


def _searcher(trials: Trials, resources: Resources, placement: Placement) -> Any:
    from ray.tune.search import Searcher

    class Asking(_NotPickled, Searcher):
        """Gives out what the ledger gives out, and tells it what has ended."""

        def __init__(self) -> None:
            super().__init__(metric="done", mode="max")
            self.numbers: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            handed = trials.next()
            if handed is None:  # unless a trial that runs may be lost, and come back
                return None if self.numbers and not trials.are_over else Searcher.FINISHED
            number, tasks = handed
            self.numbers[trial_id] = number
            return {
                "number": number,
                "tasks": tasks,
                "resources": resources.model_dump_json(),
                "cpus": placement.cpus,
                "gpus": placement.gpus,
            }

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            number = self.numbers.pop(trial_id)
            if error:
                trials.lost(number, resources.max_failures)
            elif result and "end" in result:
                trials.ended(number, TrialEnd.read(result["end"]))
            elif not trials.are_over:
                trials.stopped(number)
            # Else the whole sweep stops: the trial is still in flight, and the next driver's.

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the ledger is saved as it is written."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, likewise."""

    return Asking()


def _scheduler(trials: Trials) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    class Stopping(_NotPickled, FIFOScheduler):
        """Stops what the ledger's pruner stops."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            number = int(trial.config["number"])
            for table in json.loads(result["epochs"]):
                if trials.heard(number, TrialEpoch(**table)):
                    return str(FIFOScheduler.STOP)
            return str(FIFOScheduler.CONTINUE)

    return Stopping()  # type: ignore[no-untyped-call]


def _stopper(trials: Trials) -> Any:
    from ray.tune import Stopper

    class GivingUp(_NotPickled, Stopper):
        """Ends everything when too many trials have failed."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return trials.are_over

    return GivingUp()


class _NotPickled:
    """Tune pickles what it is given for snapshots that nobody reads; the ledger stays out."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


def perform_here(trials: Trials, worker: Worker) -> None:
    """Runs trials one after the other in this process, without Ray."""
    inputs = Inputs()
    while (handed := trials.next()) is not None:
        number, tasks = handed
        # Closed at once, whatever happens: a traceback that is kept would keep the folder's lock.
        with closing(
            told(tasks, lambda tasks: perform_interleaved(tasks, worker, inputs))
        ) as events:
            for event in events:
                if isinstance(event, TrialEnd):
                    trials.ended(number, event)
                elif trials.heard(number, event):
                    trials.stopped(number)
                    break
