"""The run folders of the experiment with speech, each made when it is asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_ray.config import Recipe
from kd_ray.pipeline import Run, Where, open_recipe
from kd_ray.runs import Event, Task
from kd_ray.runs.variants import DISTILLED, LABELS, Variant, derived, variant
from kd_ray.studies.paper.measures import PartResults, validation_accuracy
from kd_ray.studies.paper.parts import Part
from kd_ray.studies.paper.reproduction import CHECKPOINT_S, part_results

OFFICIAL, NEW_SPEAKER, REGULARIZER = "official", "new-speaker", "regularizer"
FEW, FEW_STOPPED, ALL_STOPPED = "3-percent", "3-percent-stopped", "all-stopped"
OURS = (
    *("name", "data.speakers", "teacher.path", "transfer_set.path", "transfer_set.fraction"),
    *("transfer_set.views", "transfer_set.augment"),
    *("student.baselines", "train.keep", "objective.temperature", "objective.hard_weight"),
)
"""Keys that tell the runs apart, and so are not the user's."""


@dataclass(frozen=True)
class SpeechScale:
    """How large the experiment is made.

    Attributes:
        name: of the folder that holds the run folders.
        base: a recipe's path or shipped name.
        overrides: `key.path=value`, for every run.
        temperatures: T to choose among; the paper's.
        hard_weights: weights of the labels to choose among.
        few: share of the frames with which soft targets are to be a regularizer.
        few_temperature: T of these soft targets, from which alone such a student learns.
        few_batch: rows of a batch of these few.
        few_views: how often each of these few is labelled and shown, once as it is.
        moved: frames of 10 ms by which another view may be moved in time.
        longer: how many times as many epochs students of these few have.
        speaker: whom nobody is trained on, once.
        about: how it differs from the whole, in a sentence.
    """

    name: str
    base: str = "speech"
    overrides: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    hard_weights: tuple[float, ...] = (0.1, 0.5)
    few: float = 0.03
    few_temperature: float = 5.0
    few_batch: int = 64
    few_views: int = 32
    moved: int = 2
    longer: int = 16
    speaker: str = "theo"
    about: str = ""


SPEECH = SpeechScale("reproduce-speech")
SPEECH_QUICK = SpeechScale(
    "reproduce-speech-quick",
    overrides=(
        "data.fraction=0.2",
        "data.validation=4000",
        "teacher.model.hidden=[128, 128]",
        "teacher.train.epochs=4",
        "student.model.hidden=[128, 128]",
        "train.epochs=8",
        "train.seeds=[0, 1]",
    ),
    hard_weights=(0.5,),
    about="A fifth of the recordings, nets of 2 x 128 units, fewer epochs, two seeds.",
)


@dataclass(frozen=True)
class Speech:
    """The runs of an experiment, each made when it is asked for: what is chosen may not be yet."""

    scale: SpeechScale
    overrides: Sequence[str]
    folder: Path
    where: Where

    def recipe(self, part: str, *sets: str) -> Recipe:
        """The recipe of a run folder."""
        speaker = f'data.speakers={{ test = ["{self.scale.speaker}"] }}'
        protocol = [speaker] if part.startswith(NEW_SPEAKER) else []
        named = [f"name={part}", "student.baselines=[]"]
        everyone = [*self.scale.overrides, *self.overrides, *protocol]
        return open_recipe(self.scale.base, [*everyone, *named, *sets])

    def run(self, recipe: Recipe, variants: Sequence[Variant]) -> Run:
        """A run folder of the study."""
        place = self.folder / recipe.name
        return Run(recipe, place, **self.where, variants=variants, checkpoint_s=CHECKPOINT_S)

    def search(self, protocol: str) -> Run:
        """Ten nets, their transfer set, and a student of the first seed for each T and weight."""
        recipe = self.recipe(searching(protocol))
        first = derived(recipe, train={"seeds": recipe.train.seeds[:1]})
        students = [
            Variant(name, derived(first, objective={"temperature": t, "hard_weight": weight}))
            for name, (t, weight) in self.candidates.items()
        ]
        return self.run(first, students)

    @property
    def candidates(self) -> dict[str, tuple[float, float]]:
        """Student -> T and the weight of the labels."""
        return {
            f"T{t:g}-labels-{weight:g}": (t, weight)
            for t in self.scale.temperatures
            for weight in self.scale.hard_weights
        }

    def chosen(self, results: PartResults) -> tuple[float, float] | None:
        """T and weight of the best student of a search; None while one is missing."""
        if results.lacking:
            return None
        students = [result for name in self.candidates for result in results.of(name)]
        return self.candidates[max(students, key=validation_accuracy).variant]

    def final(self, protocol: str, results: PartResults) -> Run | None:
        """The students of all seeds, on labels and distilled with what was chosen."""
        best = self.chosen(results)
        if best is None:
            return None
        recipe = self.recipe(
            protocol,
            *self.taught_by(protocol),
            f"objective.temperature={best[0]}",
            f"objective.hard_weight={best[1]}",
        )
        return self.run(recipe, [variant(recipe, LABELS), variant(recipe, DISTILLED)])

    def taught_by(self, protocol: str, labelled: str | None = None) -> list[str]:
        """Overrides of students whose teachers, and whose set, are those of other runs."""
        home = self.folder / searching(protocol)
        there = self.folder / (labelled or searching(protocol))
        return [f'teacher.path="{home}"', f'transfer_set.path="{there}/transfer_set"']

    def regularized(self) -> dict[str, Run]:
        """Students of few recordings, and those that are stopped by the validation rows."""
        teachers = self.taught_by(OFFICIAL)
        scale, stopped = self.scale, 'train.keep="best"'
        few = (
            f"transfer_set.fraction={scale.few}",
            f"transfer_set.views={scale.few_views}",
            f"transfer_set.augment={{ crop = {scale.moved} }}",
        )
        made = {
            FEW: self.of_few(FEW, teachers[0], *few),
            FEW_STOPPED: self.of_few(FEW_STOPPED, *self.taught_by(OFFICIAL, FEW), stopped),
            ALL_STOPPED: self.recipe(ALL_STOPPED, *teachers, stopped),
        }
        return {
            name: self.run(
                recipe,
                [variant(recipe, of) for of in (LABELS, DISTILLED) if of in STUDENTS[name]],
            )
            for name, recipe in made.items()
        }

    def of_few(self, part: str, *sets: str) -> Recipe:
        """The recipe of students of few rows: soft targets alone, small batches, many epochs."""
        scale = self.scale
        soft = (f"objective.temperature={scale.few_temperature}", "objective.hard_weight=0")
        recipe = self.recipe(part, *sets, *soft, f"train.batch_size={scale.few_batch}")
        return derived(recipe, train={"epochs": recipe.train.epochs * scale.longer})

    def after_search(self, protocol: str, run: Run) -> Iterator[tuple[Task, Event]]:
        """Trains the students with what the search has chosen."""
        final = self.final(protocol, PartResults(list(run.results.values())))
        assert final is not None  # the search is whole
        yield from final.events(("distill",))

    def results(self) -> dict[str, PartResults]:
        """What is there of every run, by whichever call it was made."""
        found = {}
        for protocol in (OFFICIAL, NEW_SPEAKER):
            search = _results_of(self.search(protocol))
            final = self.final(protocol, search)
            found[searching(protocol)] = search
            found[protocol] = _results_of(final) if final else NOTHING
        return found | {name: _results_of(run) for name, run in self.regularized().items()}


NOTHING = PartResults([], frozenset({"", LABELS, DISTILLED}))
STUDENTS = {
    FEW: (LABELS, DISTILLED),
    FEW_STOPPED: (LABELS, DISTILLED),
    ALL_STOPPED: (LABELS,),
}


def searching(protocol: str) -> str:
    """The run folder in which T and weight are chosen."""
    return f"{protocol}-search"


def _results_of(run: Run) -> PartResults:
    return part_results(Part(run.recipe.name, ""), run)
