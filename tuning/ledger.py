"""The ledger of a sweep: an Optuna study in SQLite that is written as things happen.

It alone knows which trials there are, so that a sweep whose driver was killed goes on from it: what
is finished stays finished, what was running is handed out again under its number, and the sampler
and the pruner have all they had learned. Ray Tune only runs what the ledger hands out.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kd_ray.config import Recipe, SweepOptions
from kd_ray.errors import ConfigError
from kd_ray.runs.fit import check_same
from kd_ray.training.order import derived_seed
from tuning.private import begun_trial
from tuning.space import Settings, first_points, settings_of, suggested
from tuning.study_file import BUSY_S, StudyFile, answering

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

State = Literal["finished", "stopped", "failed"]
STUDY = "study.db"
IDENTITY, AS_ONE = "kd-ray: made by", "kd-ray: trials are trained as one"
LEARNING_WIDTH, BLIND_WIDTH = 8, 64
"""Trials that are handed out together where that saves time: of a sampler that learns from those
before, and of one that does not."""
STATES: Mapping[str, State] = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}
"""Optuna's names of the states in which a trial is over -> this project's."""


@dataclass(frozen=True)
class Point:
    """A trial that is to be run, and whether an earlier driver had begun it.

    Its parameters are Optuna's; its settings, what they give to keys of the recipe.
    """

    number: int
    parameters: Mapping[str, Any]
    settings: Settings
    resumed: bool = False


class Ledger:
    """The trials of a sweep; one process at a time holds it.

    Its study is, at any time, as it is on disk; a store has it as of the last trial that was begun
    or ended.

    Attributes:
        options: `[sweep]` of the recipe.
        study: Optuna's.
        handed_out: how many trials there are, running and over.
        failures: how many of them failed.
    """

    def __init__(self, folder: Path, recipe: Recipe, identity: dict[str, Any]) -> None:
        """Opens the study of a sweep's folder, or begins one that is called as the recipe is.

        `identity` is what determines the trials, dotted key -> value; how many the recipe asks for
        may have changed.

        Raises:
            CheckpointError: the study in the folder is of another recipe or transfer set.
            ConfigError: a point to enqueue is not in the space, or a grid is smaller than asked.
            StorageError: the file cannot be written or is no study.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        assert recipe.sweep is not None
        self.options = options = recipe.sweep
        path = folder / STUDY
        points = first_points(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = StudyFile(path)
        with answering(path, Exception):
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{self._file.local}", engine_kwargs={"connect_args": {"timeout": BUSY_S}}
            )
            self.study = optuna.create_study(
                study_name=recipe.name,
                storage=storage,
                directions=options.directions,
                pruner=_pruner(options),
                load_if_exists=True,
            )
            if IDENTITY in self.study.user_attrs:
                check_same(path, self.study.user_attrs[IDENTITY], identity)
            else:  # begun just now, or by a driver that was killed in these very lines
                if len(options.metrics) > 1:
                    self.study.set_metric_names(options.metrics)
                for point in points[len(self.study.get_trials(deepcopy=False)) :]:
                    self.study.enqueue_trial(point)
                self.study.set_user_attr(IDENTITY, identity)
        self._file.keep_for(self.study)
        self._file.put()
        self._live: dict[int, Trial] = {}
        # Counted from here on, as the study reads all that run anew whenever it is asked.
        self._begun = self._trials_in("RUNNING")
        self.handed_out = len(self._trials_in("RUNNING", *STATES))
        self.failures = len(self._trials_in("FAIL"))

    def _trials_in(self, *states: str) -> list["FrozenTrial"]:
        return [t for t in self.study.get_trials(deepcopy=False) if t.state.name in states]

    @property
    def gave_up(self) -> bool:
        """Whether more trials failed than the sweep puts up with: none are begun or go on."""
        return self.failures > self.options.max_failures

    @property
    def left(self) -> int:
        """How many trials are still to be run to their end."""
        return len(self._begun) + max(0, self.options.trials - self.handed_out)

    @property
    def width(self) -> int:
        """How many trials are handed out together."""
        if self.options.fuse != "auto":
            return self.options.fuse
        if self.study.user_attrs.get(AS_ONE) is False:
            return 1
        return BLIND_WIDTH if self.options.sampler in ("random", "grid") else LEARNING_WIDTH

    def found(self, as_one: bool) -> None:
        """Notes whether the first trials take less time as one; those after them follow."""
        if self.options.fuse == "auto" and AS_ONE not in self.study.user_attrs:
            with answering(self._file.path):
                self.study.set_user_attr(AS_ONE, as_one)
            self._file.put()

    @property
    def upcoming(self) -> int | None:
        """The number of the next trial to run; None at the end."""
        if self._begun:
            return self._begun[0].number
        number = self.handed_out
        return number if number < self.options.trials else None

    def next(self) -> Point | None:
        """The next trial to run: one that a killed driver had begun, or a new one; None at the end.

        Raises:
            StorageError: the study cannot be written.
        """
        resumed = bool(self._begun)
        if self.upcoming is None:
            return None
        with answering(self._file.path):
            # What is drawn depends on the trials so far, not on where a driver was killed.
            self.study.sampler = _sampler(self.options, self.handed_out)
            trial = begun_trial(self.study, self._begun.pop(0)) if resumed else self.study.ask()
            self.handed_out += not resumed
            self._live[trial.number] = trial
            # Of a trial that was begun, this gives the parameters it had.
            parameters = suggested(self.options, trial)
        self._file.put()
        return Point(trial.number, parameters, settings_of(parameters, self.options), resumed)

    def again(self, number: int) -> None:
        """Takes a trial back whose process was lost; it is the next to be handed out."""
        self._begun.insert(0, self.study.get_trials(deepcopy=False)[number])

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Notes the metric after an epoch; says whether the trial is to be stopped.

        An epoch that was noted before a kill is not noted again.
        """
        if len(self.options.metrics) > 1:
            return False
        with answering(self._file.path):
            self._live[number].report(value, epoch)
            stop = bool(self._live[number].should_prune())
        self._file.put(can_wait=True)
        return stop

    def complete(
        self, number: int, values: Mapping[str, float], about: Mapping[str, Any]
    ) -> str | None:
        """Notes a trial that came to its end, and what else is to be kept of it.

        Returns:
            Why it counts as failed all the same: a metric of the sweep is missing; or None.
        """
        wanted = self.options.metrics
        missing = [name for name in wanted if not math.isfinite(values.get(name, math.nan))]
        if missing:
            cause = f"the trial ended without {', '.join(missing)}"
            self.fail(number, cause, about)
            return cause
        self._tell(number, about, "COMPLETE", [values[name] for name in wanted])
        return None

    def prune(self, number: int, about: Mapping[str, Any]) -> None:
        """Notes a trial that was stopped early."""
        self._tell(number, about, "PRUNED")

    def fail(self, number: int, cause: str, about: Mapping[str, Any] | None = None) -> None:
        """Notes a trial that failed, and why."""
        self._tell(number, {**(about or {}), "cause": cause}, "FAIL")

    def _tell(
        self, number: int, about: Mapping[str, Any], state: str, values: list[float] | None = None
    ) -> None:
        from optuna.trial import TrialState

        with answering(self._file.path):
            trial = self._live.pop(number)
            for name, value in about.items():
                trial.set_user_attr(name, value)
            self.study.tell(trial, values, state=TrialState[state])
            self.failures += state == "FAIL"
        self._file.put()


def _pruner(options: SweepOptions) -> "BasePruner":
    """Optuna's rule for stopping trials early."""
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if options.stopping == "asha":
        # Li et al. 2020: a rung at grace * reduction^k epochs, passed by the best 1 / reduction.
        return SuccessiveHalvingPruner(options.grace, options.reduction)
    if options.stopping == "median":
        return MedianPruner(n_warmup_steps=options.grace)
    return NopPruner()


def awaited_epochs(options: SweepOptions, epochs: int) -> frozenset[int]:
    """Epochs before the last after which the rule may stop a trial; after all others it does not.

    >>> sorted(awaited_epochs(SweepOptions(space={"train.lr": {"uniform": [0, 1]}}), 28))
    [3, 9, 27]
    """
    if options.stopping == "asha":
        rungs = (options.grace * options.reduction**rung for rung in itertools.count())
        return frozenset(itertools.takewhile(lambda epoch: epoch < epochs, rungs))
    return frozenset(range(options.grace, epochs) if options.stopping == "median" else ())


def _sampler(options: SweepOptions, handed_out: int) -> "BaseSampler":
    """Optuna's sampler; one that goes on draws other random numbers than it began with."""
    from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler

    seed = derived_seed(options.seed, "sampler", handed_out) % 2**32
    if options.sampler == "tpe":
        # Trials run side by side: those not finished count as bad, so that no two are alike.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    if options.sampler == "nsga2":
        return NSGAIISampler(seed=seed)
    if options.sampler == "gp":
        return GPSampler(seed=seed)
    return RandomSampler(seed=seed)  # a grid's points are all enqueued


def open_study(folder: Path) -> "Study":
    """The study of a sweep that was begun, to be read.

    Raises:
        ConfigError: there is none.
        StorageError: the file is no study.
    """
    import optuna

    path = folder / STUDY
    if not path.is_file():
        raise ConfigError(
            f"{folder.parent}: must be a sweep, but there is no {folder.name}/{STUDY}; "
            "name a run folder such as runs/mnist-sweep, or begin one with `kd-ray tune run`"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = StudyFile(path)
    with answering(path, Exception):
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{file.local}")
    file.keep_for(study)
    return study
