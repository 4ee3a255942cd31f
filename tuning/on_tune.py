"""Trials on Ray Tune: [1] the actor that runs one after the other, [2] the driver that feeds it.

Tune places the actors, uses them again, and replaces those that die. Which trials there are, which
are stopped early, and what has become of them is the ledger's: Tune asks it through the two
interfaces below and keeps nothing that is used again, so its own snapshots (pickles) are thrown
away.
"""

import queue
import tempfile
import threading
from collections.abc import Generator
from contextlib import closing, nullcontext
from typing import Any

from kd_ray.config import Resources
from kd_ray.files import scratch_folder
from kd_ray.on_ray import check_nodes, connected, trial_slots
from kd_ray.on_ray.private import lost_trials_hushed
from kd_ray.on_ray.train import perform_on_ray
from kd_ray.runs import Inputs, Task, perform_interleaved
from kd_ray.training.workers import Worker
from tuning.trial import TrialEnd, TrialEpoch, told
from tuning.trials import Trials

ORCHESTRATOR_BYTES = 256 * 2**20
"""What a trial of several workers asks for itself; its workers ask for CPUs and GPUs."""


class TrialSteps:
    """[1] What a Tune actor does: a trial in steps of some epochs; then another, on the same data.

    The trial trains in a thread of its own, so that it need not wait while the driver looks at what
    it has reported, awaited epochs aside. The methods are those of `ray.tune.Trainable`.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begins the first trial."""
        self._inputs = Inputs()
        self._begin(**config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another trial."""
        self.cleanup()
        self._begin(**new_config)
        return True

    def _begin(self, number: int, tasks: list[Task], resources: Resources) -> None:
        self._reports: queue.SimpleQueue[TrialEpoch | TrialEnd] = queue.SimpleQueue()
        self._enough, self._verdicts = threading.Event(), threading.Semaphore(0)
        self._is_awaited = False
        if resources.most_workers > 1:
            events = perform_on_ray(tasks, resources, interleaved=True)
        else:
            events = perform_interleaved(tasks, _alone(resources), self._inputs)
        trial = told(tasks, events, self._enough.is_set)
        self._thread = threading.Thread(target=self._train, args=(trial,))
        self._thread.start()

    def _train(self, trial: Generator[TrialEpoch | TrialEnd]) -> None:
        with closing(trial):
            for report in trial:
                self._reports.put(report)
                if isinstance(report, TrialEpoch) and report.awaited:
                    self._verdicts.acquire()
                if self._enough.is_set():
                    return

    def step(self) -> dict[str, Any]:
        """What the trial has reported since the last step, at least one thing, as Tune wants it."""
        if self._is_awaited:
            self._verdicts.release()
        reports = [self._reports.get()]
        while not self._reports.empty():
            reports.append(self._reports.get())
        self._is_awaited = isinstance(reports[-1], TrialEpoch) and reports[-1].awaited
        return {"done": isinstance(reports[-1], TrialEnd), "reports": reports}

    def cleanup(self) -> None:
        """Lets go of a trial, whether it has ended or was stopped."""
        self._enough.set()
        self._verdicts.release()
        self._thread.join()


def _alone(resources: Resources) -> Worker:
    """The one worker of a trial, in its actor."""
    import torch

    usable = resources.gpus_per_worker and torch.cuda.is_available()  # nodes may but count as such
    device = torch.device("cuda", 0) if usable else torch.device("cpu")
    return Worker(rank=0, world=1, device=device, threads=int(resources.cpus_per_worker))


def perform_on_tune(trials: Trials, address: str | None, verbose: bool) -> None:
    """[2] Runs trials until all are over, or one could not go on.

    Raises:
        ClusterError: a trial does not fit the cluster, or its process died too often.
        KdRayError: of the machine that a trial or the ledger is on; those that ran are in flight.
    """
    # Tune's snapshots must not take the place of checkpoints, where that is scarce.
    home = tempfile.TemporaryDirectory(prefix="kd-ray-tune-", ignore_cleanup_errors=True)
    hushed = nullcontext() if verbose else lost_trials_hushed()
    with connected(address, verbose), hushed, home as snapshots:
        from ray import tune

        placement, slots = trial_slots(trials.recipe.resources)
        resources = trials.recipe.resources.model_copy(
            update={"cpus_per_worker": placement.cpus, "gpus_per_worker": float(placement.gpus)}
        )
        bundle = placement.asked
        if resources.most_workers > 1:
            bundle = {"memory": float(ORCHESTRATOR_BYTES)}
        with scratch_folder(trials.folder, "tune") as probe:
            check_nodes(trials.folder, probe, placement)
        tune.Tuner(
            tune.with_resources(
                type("TrialActor", (TrialSteps, tune.Trainable), {}),
                tune.PlacementGroupFactory([bundle]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(trials, resources),
                scheduler=_scheduler(trials),
                num_samples=-1,
                max_concurrent_trials=min(slots, trials.ledger.left),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=snapshots,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        if trials.error is not None:
            raise trials.error


def _searcher(trials: Trials, resources: Resources) -> Any:
    from ray.tune.search import Searcher

    class Asking(_NotPickled, Searcher):
        """Gives out what the ledger gives out, and tells it what has ended."""

        def __init__(self) -> None:
            super().__init__(metric="done", mode="max")
            self.numbers: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            handed = None
            with trials.halting():
                handed = trials.next()
            if handed is None:  # unless a trial that runs may be lost, and come back
                return None if self.numbers and not trials.is_halted else Searcher.FINISHED
            number, tasks = handed
            self.numbers[trial_id] = number
            return {"number": number, "tasks": tasks, "resources": resources}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            number = self.numbers.pop(trial_id)
            with trials.halting():
                if error:
                    trials.lost(number, resources.max_failures)
                elif result and isinstance(end := result["reports"][-1], TrialEnd):
                    trials.ended(number, end)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the ledger is saved as it is written."""

        restore = save

    return Asking()


def _scheduler(trials: Trials) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    class Stopping(_NotPickled, FIFOScheduler):
        """Stops what the ledger's pruner stops."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            number, is_stopped = int(trial.config["number"]), False
            with trials.halting():
                is_stopped = any(trials.heard(number, epoch) for epoch in result["reports"])
            if is_stopped or trials.is_halted:  # if halted, it is still in flight
                return str(FIFOScheduler.STOP)
            return str(FIFOScheduler.CONTINUE)

    return Stopping()  # type: ignore[no-untyped-call]


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
        with closing(told(tasks, perform_interleaved(tasks, worker, inputs))) as events:
            for event in events:
                if isinstance(event, TrialEnd):
                    trials.ended(number, event)
                elif trials.heard(number, event):
                    break
