"""Trials on Ray Tune: [1] the actor that runs some after the others, [2] the driver that feeds it.

Tune places the actors, uses them again, and replaces those that die. Which trials there are, which
are stopped early, and what has become of them is the ledger's: Tune asks it through the two
interfaces below and keeps nothing that is used again, so its own snapshots (pickles) are thrown
away.
"""

import queue
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, Literal

from kd_ray.config import Resources
from kd_ray.files import scratch_folder
from kd_ray.on_ray import check_nodes, connected, trial_slots
from kd_ray.on_ray.private import lost_trials_hushed
from kd_ray.on_ray.relay import beside_driver
from kd_ray.on_ray.train import perform_on_ray
from kd_ray.runs import Inputs, Task
from kd_ray.training.workers import Worker
from tuning.trial import Block, Report, TrialEpoch, perform_side_by_side
from tuning.trials import Trials

ORCHESTRATOR_BYTES = 256 * 2**20
"""What a trial of several workers asks for itself; its workers ask for CPUs and GPUs."""


class Verdicts:
    """Which trials have been stopped, for actors that train others beside them."""

    def __init__(self) -> None:
        self._stopped: set[int] = set()

    def stop(self, numbers: Sequence[int]) -> None:
        """Notes trials that are to end with the epoch they are at."""
        self._stopped.update(numbers)

    def stopped(self) -> set[int]:
        """All of them."""
        return self._stopped


class TrialSteps:
    """[1] What a Tune actor does: some trials together, in steps; then others, on the same data.

    The trials train in a thread of their own, so that they need not wait while the driver looks at
    what they have reported, awaited epochs aside. The methods are those of `ray.tune.Trainable`.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begins the first trials."""
        self._inputs = Inputs()
        self._begin(**config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins others."""
        self.cleanup()
        self._begin(**new_config)
        return True

    def _begin(
        self,
        trials: dict[int, list[Task]],
        resources: Resources,
        fuse: int | Literal["auto"],
        verdicts: Any,
    ) -> None:
        self._reports: queue.SimpleQueue[tuple[int, Report] | None] = queue.SimpleQueue()
        self._enough, self._seen = threading.Event(), threading.Semaphore(0)
        self._verdicts, self._is_awaited = verdicts, False
        self._stopped: set[int] = set()
        perform: Any = partial(perform_side_by_side, _alone(resources), self._inputs, fuse)
        if resources.most_workers > 1:

            def perform(tasks: Sequence[Task], is_over: object) -> Any:
                return perform_on_ray(tasks, resources, interleaved=True)

        block = Block(trials, perform, self._enough.is_set)
        self._thread = threading.Thread(target=self._train, args=(block,))
        self._thread.start()

    def _train(self, block: Block) -> None:
        with closing(block.reports()) as reports:
            for number, report in reports:
                self._reports.put((number, report))
                if isinstance(report, TrialEpoch) and report.awaited:
                    self._seen.acquire()
                    block.over |= self._stopped
                if self._enough.is_set():
                    return
        self._reports.put(None)

    def step(self) -> dict[str, Any]:
        """What trials have reported since the last step, at least one thing, as Tune wants it."""
        import ray

        if self._is_awaited:
            if self._verdicts is not None:
                self._stopped = ray.get(self._verdicts.stopped.remote())
            self._seen.release()
        reports = [self._reports.get()]
        while not self._reports.empty():
            reports.append(self._reports.get())
        told = [report for report in reports if report is not None]
        last = told[-1][1] if told else None
        self._is_awaited = isinstance(last, TrialEpoch) and last.awaited
        return {"done": None in reports, "reports": told}

    def cleanup(self) -> None:
        """Lets go of trials, whether they have ended or were stopped."""
        self._enough.set()
        self._seen.release()
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
        import ray
        from ray import tune

        placement, slots = trial_slots(trials.recipe.resources)
        resources = trials.recipe.resources.model_copy(
            update={"cpus_per_worker": placement.cpus, "gpus_per_worker": float(placement.gpus)}
        )
        bundle, width = placement.asked, _width(trials, slots)
        if resources.most_workers > 1:
            bundle = {"memory": float(ORCHESTRATOR_BYTES)}
        with scratch_folder(trials.folder, "tune") as probe:
            check_nodes(trials.folder, probe, placement)
        verdicts = None
        if width > 1 and trials.ledger.options.stopping != "none":
            verdicts = ray.remote(**beside_driver())(Verdicts).remote()
        blocks = _Blocks(trials, resources, width, verdicts)
        tune.Tuner(
            tune.with_resources(
                type("TrialActor", (TrialSteps, tune.Trainable), {}),
                tune.PlacementGroupFactory([bundle]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(blocks),
                scheduler=_scheduler(blocks),
                num_samples=-1,
                max_concurrent_trials=min(slots, -(-trials.ledger.left // width)),
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


def _width(trials: Trials, slots: int) -> int:
    """How many trials an actor trains together, so that no slot is empty meanwhile."""
    if trials.recipe.resources.most_workers > 1:
        return 1
    return min(trials.ledger.width, -(-trials.ledger.options.trials // slots))


class _Blocks:
    """[2] Trials of the sweep that an actor has, which is a trial to Tune."""

    def __init__(self, trials: Trials, resources: Resources, width: int, verdicts: Any) -> None:
        self.trials, self._resources, self._width = trials, resources, width
        self._verdicts = verdicts
        self._running: dict[str, set[int]] = {}
        self._heard: dict[str, int] = {}

    def next(self, tune_id: str) -> Any:
        """What Tune is to give an actor: trials, or None while those that run may come back."""
        from ray.tune.search import Searcher

        handed: dict[int, list[Task]] = {}
        with self.trials.halting():
            handed = self.trials.next(self._width)
        if not handed:
            waits = self._running and not self.trials.is_halted
            return None if waits else Searcher.FINISHED
        self._running[tune_id] = set(handed)
        self._heard[tune_id] = 0
        return {
            "trials": handed,
            "resources": self._resources,
            "fuse": self.trials.ledger.options.fuse,
            "verdicts": self._verdicts,
        }

    def hear(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Takes the reports of a step; says whether the actor is to let go of its trials."""
        if (step := result["training_iteration"]) == self._heard[tune_id]:
            return False
        self._heard[tune_id] = step
        running = self._running[tune_id]
        with self.trials.halting():
            for number, report in result["reports"]:
                if number in running and self.trials.take(number, report):
                    running.discard(number)
                    if self._verdicts is not None and isinstance(report, TrialEpoch):
                        import ray

                        ray.get(self._verdicts.stop.remote([number]))
        return not running or self.trials.is_halted  # if halted, they are still in flight

    def over(self, tune_id: str, result: dict[str, Any] | None, is_lost: bool) -> None:
        """Takes the last reports of an actor, or takes back what it had when it was lost."""
        if result and not is_lost:
            self.hear(tune_id, result)
        with self.trials.halting():
            for number in sorted(self._running.pop(tune_id), reverse=True) if is_lost else ():
                self.trials.lost(number, self._resources.max_failures)
        self._running.pop(tune_id, None)


def _searcher(blocks: _Blocks) -> Any:
    from ray.tune.search import Searcher

    class Asking(_NotPickled, Searcher):
        """Gives out what the ledger gives out, and tells it what has ended."""

        def __init__(self) -> None:
            super().__init__(metric="done", mode="max")

        def suggest(self, trial_id: str) -> Any:
            return blocks.next(trial_id)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            blocks.over(trial_id, result, error)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the ledger is saved as it is written."""

        restore = save

    return Asking()


def _scheduler(blocks: _Blocks) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    class Stopping(_NotPickled, FIFOScheduler):
        """Stops what the ledger's pruner stops."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            lets_go = blocks.hear(trial.trial_id, result)
            return str(FIFOScheduler.STOP if lets_go else FIFOScheduler.CONTINUE)

    return Stopping()  # type: ignore[no-untyped-call]


class _NotPickled:
    """Tune pickles what it is given for snapshots that nobody reads; the ledger stays out."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


def perform_here(trials: Trials, worker: Worker) -> None:
    """Runs trials in this process, without Ray."""
    inputs, fuse = Inputs(), trials.ledger.options.fuse
    while handed := trials.next():
        block = Block(handed, partial(perform_side_by_side, worker, inputs, fuse))
        # Closed at once, whatever happens: a traceback that is kept would keep the folder's lock.
        with closing(block.reports()) as reports:
            for number, report in reports:
                if trials.take(number, report):
                    block.over.add(number)
                if trials.is_halted:
                    break
