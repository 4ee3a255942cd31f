"""The run folders of the experiment with losses: what is drawn, and what their papers have."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kd_ray.config import Recipe, SoftWeight
from kd_ray.datasets import given_root
from kd_ray.pipeline import Run, Where, open_recipe
from kd_ray.runs import Event, Task
from kd_ray.runs.variants import LABELS, NO_SOFT_TERM, Variant, derived
from kd_ray.studies.paper.measures import PartResults, validation_accuracy
from kd_ray.studies.paper.parts import Part
from kd_ray.studies.paper.reproduction import CHECKPOINT_S, part_results
from kd_ray.training.objectives import HINTON, STANDARDIZED

CIFAR, MNIST = "cifar10-jpeg", "mnist"
OURS = (
    *("name", "teacher.path", "transfer_set.path", "student.baselines", "train.lr"),
    *(f"objective.{key}" for key in ("name", "options", "temperature", "soft_weight")),
    *(f"objective.{key}" for key in ("hard_weight", "soft_warmup", "soft_decay", "targets")),
)
"""Keys that tell the runs apart, and so are not the user's."""


@dataclass(frozen=True)
class Published:
    """A loss as its paper compares it.

    Attributes:
        temperature: T.
        soft_weight: c.
        hard_weight: h.
        gain: points of accuracy over Hinton's on CIFAR-100, mean of seven pairs of one family.
        temperatures: between which T is searched.
        weights: between which c is searched, beside h = 1; multiples of T^2 where `soft_weight` is.
        options: parameters, also where T and c are searched.
        soft_warmup: share of the run in which c rises; likewise.
    """

    temperature: float
    soft_weight: str
    hard_weight: float
    gain: float
    temperatures: tuple[float, float] = (1.0, 20.0)
    weights: tuple[float, float] = (0.1, 10.0)
    options: Mapping[str, Any] = field(default_factory=dict)
    soft_warmup: float = 0.0

    @property
    def weight(self) -> SoftWeight:
        """The number or multiple c."""
        return SoftWeight.parse(self.soft_weight)


PUBLISHED: Mapping[str, Published] = {
    HINTON: Published(4.0, "0.9*T^2", 0.1, 0.0),
    "dkd": Published(
        4.0, "T^2", 1.0, 1.43, options={"alpha": 1.0, "beta": 8.0}, soft_warmup=1 / 12
    ),
    "dist": Published(4.0, "T^2", 1.0, 1.19, options={"beta": 2.0, "gamma": 2.0}),
    "ttm": Published(10.0, "45", 1.0, 1.30, weights=(1.0, 100.0)),
    "wttm": Published(5.0, "4", 1.0, 1.43),
    # Its logits have deviation 1, whatever the teacher's have.
    STANDARDIZED: Published(2.0, "9*T^2", 0.1, 1.34, temperatures=(0.5, 5.0), weights=(1.0, 100.0)),
}
"""Every loss of the catalogue, for CIFAR-100: T, c and h of Tian et al. 2020 (Hinton's), Zhao et
al. 2022, Huang et al. 2022, Zheng and Yang 2024 and Sun et al. 2024; gains as the latter two have
them."""


@dataclass(frozen=True)
class LossScale:
    """How large the experiment is made.

    Attributes:
        name: of the folder that holds the run folders.
        bases: data -> a recipe's path or shipped name, and `key.path=value` for its runs.
        trials: of each loss: its paper's setting, and the others drawn.
        rates: factors of the recipe's learning rate between which it is drawn.
        about: how it differs from the whole, in a sentence.
    """

    name: str
    bases: Mapping[str, tuple[str, tuple[str, ...]]]
    trials: int = 10
    rates: tuple[float, float] = (0.25, 4.0)
    about: str = ""


SEEDS = "train.seeds=[0, 1, 2, 3, 4]"
# Adam's steps are as long whatever the loss is multiplied by, so c is no learning rate in disguise.
SMALL = ('train.optimizer="adam"', "train.lr=2e-3", "student.model.hidden=[100, 100]")
MOVED = "{ crop = 1, flip = true }"
HALF = (
    *("data.image_size=16", f"teacher.train.augment={MOVED}", f"transfer_set.augment={MOVED}"),
    *('train.precision="bf16"', 'teacher.train.precision="bf16"'),
)
"""Pictures of half the side take a quarter of the time."""
LOSSES = LossScale(
    "reproduce-losses",
    {
        CIFAR: (CIFAR, ("data.fraction=0.2", "train.epochs=10", SEEDS, *HALF)),
        MNIST: (
            "mnist-quick",
            ("data.validation=5000", "train.epochs=8", SEEDS, *SMALL),
        ),
    },
)
LOSSES_QUICK = LossScale(
    "reproduce-losses-quick",
    {
        CIFAR: (
            CIFAR,
            (
                *("data.fraction=0.1", "data.validation=1000", "teacher.train.epochs=8"),
                *("transfer_set.views=2", "train.epochs=3", "train.seeds=[0, 1]", *HALF),
            ),
        ),
        MNIST: (
            "mnist-quick",
            (
                *("data.fraction=0.2", "data.validation=2000", "teacher.train.epochs=12"),
                *("train.epochs=6", "train.seeds=[0, 1]", *SMALL),
            ),
        ),
    },
    trials=4,
    about="Fewer pictures, epochs and trials, and two seeds of five.",
)


@dataclass(frozen=True)
class Setting:
    """What a search draws: T, c and h of a loss, and the learning rate."""

    temperature: float
    weight: SoftWeight
    hard_weight: float
    lr: float

    def shown(self, loss: str) -> str:
        """As a person reads it."""
        rate = f"rate {self.lr:.2g}"
        if loss == LABELS:
            return rate
        unit = " T^2" if self.weight.times_temperature_squared else ""
        c = f"c/h = {self.weight.factor / self.hard_weight:.2g}{unit}"
        return f"T = {self.temperature:.2g}, {c}, {rate}"


@dataclass(frozen=True)
class Losses:
    """The runs of the experiment on some data, made when asked for: choices may not be yet."""

    scale: LossScale
    data: str
    overrides: Sequence[str]
    folder: Path
    where: Where

    def recipe(self, part: str, *sets: str) -> Recipe:
        """The recipe of a run folder."""
        base, own = self.scale.bases[self.data]
        everyone = [*own, *self.overrides, f"name={part}", "student.baselines=[]", *sets]
        if (
            self.data != CIFAR
            or (root := given_root(open_recipe(base, self.overrides).data)) is None
        ):
            return open_recipe(base, everyone)
        return open_recipe(base, [*everyone, f'data.root="{root / CIFAR}"'])

    def run(self, recipe: Recipe, variants: Sequence[Variant]) -> Run:
        """A run folder of the study."""
        place = self.folder / recipe.name
        return Run(recipe, place, **self.where, variants=variants, checkpoint_s=CHECKPOINT_S)

    @cached_property
    def settings(self) -> Mapping[str, Sequence[Setting]]:
        """Loss -> its trials, which are at the same points for all; for labels, too."""
        lr = self.recipe(self.search_part).train.lr
        # Sobol' 1967: evenly in all three directions with few points.
        cube = torch.quasirandom.SobolEngine(3, scramble=True, seed=0)  # type: ignore[no-untyped-call]
        points = cube.draw(self.scale.trials - 1, dtype=torch.float64).tolist()
        drawn = {}
        for loss, published in PUBLISHED.items():
            own, squared = published.weight, published.weight.times_temperature_squared
            drawn[loss] = [
                Setting(published.temperature, own, published.hard_weight, lr),
                *(
                    Setting(
                        round(_between(published.temperatures, t), 3),
                        SoftWeight(
                            factor=round(_between(published.weights, c), 3),
                            times_temperature_squared=squared,
                        ),
                        1.0,
                        float(f"{lr * _between(self.scale.rates, rate):.3g}"),
                    )
                    for t, c, rate in points
                ),
            ]
        labels = [Setting(1.0, NO_SOFT_TERM, 1.0, each.lr) for each in drawn[HINTON]]
        return {LABELS: labels, **drawn}

    def student(self, recipe: Recipe, name: str, loss: str, setting: Setting) -> Variant:
        """A student of a loss at a setting."""
        published = PUBLISHED.get(loss)
        objective: dict[str, Any] = {
            "name": loss if published else HINTON,
            "options": dict(published.options) or None if published else None,
            "temperature": setting.temperature,
            "soft_weight": setting.weight,
            "hard_weight": setting.hard_weight,
            "soft_warmup": published.soft_warmup if published else 0.0,
        }
        return Variant(name, derived(recipe, objective=objective, train={"lr": setting.lr}))

    @property
    def search_part(self) -> str:
        """The run folder in which settings are chosen."""
        return f"{self.data}-search"

    def search(self) -> Run:
        """The teacher, its transfer set, and a student of the first seed for each trial."""
        recipe = self.recipe(self.search_part)
        first = derived(recipe, train={"seeds": recipe.train.seeds[:1]})
        students = [
            self.student(first, trial_name(loss, number), loss, setting)
            for loss, settings in self.settings.items()
            for number, setting in enumerate(settings)
        ]
        return self.run(first, students)

    def chosen(self, results: PartResults) -> dict[str, Setting] | None:
        """Loss -> the setting that did best on the validation rows; None if a trial is missing."""
        if results.lacking:
            return None

        def accuracy(loss: str, number: int) -> float:
            return validation_accuracy(results.of(trial_name(loss, number))[0])

        return {
            loss: settings[max(range(len(settings)), key=lambda n: (accuracy(loss, n), -n))]
            for loss, settings in self.settings.items()
        }

    def final(self, results: PartResults) -> Run | None:
        """The students of all seeds: as their papers have them, and with what was chosen."""
        best = self.chosen(results)
        if best is None:
            return None
        home = self.folder / self.search_part
        taught = (f'teacher.path="{home}"', f'transfer_set.path="{home}/transfer_set"')
        recipe = self.recipe(self.data, *taught)
        students = {
            name: self.student(recipe, name, loss, setting)
            for loss, setting in best.items()
            for name, setting in (
                (self.searched_name(loss, setting), setting),
                *([(published_name(loss), self.settings[loss][0])] if loss in PUBLISHED else []),
            )
        }
        return self.run(recipe, list(students.values()))

    def searched_name(self, loss: str, chosen: Setting) -> str:
        """The student of a loss at what was chosen, which may be what its paper has."""
        is_published = loss in PUBLISHED and chosen == self.settings[loss][0]
        return published_name(loss) if is_published else loss

    def after_search(self, run: Run) -> Iterator[tuple[Task, Event]]:
        """Trains the students of all seeds with what the search has chosen."""
        final = self.final(PartResults(list(run.results.values())))
        assert final is not None  # the search is whole
        yield from final.events(("distill",))

    def results(self) -> tuple[PartResults, PartResults | None]:
        """What is there of search and students, by whichever call it was made."""
        search = part_results(Part(self.search_part, ""), self.search())
        final = self.final(search)
        return search, None if final is None else part_results(Part(self.data, ""), final)


def trial_name(loss: str, number: int) -> str:
    """The student of a trial."""
    return f"{loss}-{number}"


def published_name(loss: str) -> str:
    """The student of a loss as its paper has it."""
    return f"{loss}-published"


def _between(ends: tuple[float, float], share: float) -> float:
    """A number between two, evenly over the logarithm."""
    low, high = ends
    return float(low * (high / low) ** share)
