"""How large the experiments are made: the paper's, or as much as fits into minutes."""

from collections.abc import Mapping
from dataclasses import dataclass

from kd_ray.catalog import pick

QUICK = "-quick"
FEW, STOPPED = "3-percent", "3-percent-stopped"
ENSEMBLE, ONE_MEMBER, UNLABELLED = "ensemble", "one-member", "unlabelled"


@dataclass(frozen=True)
class Scale:
    """How large the experiments are: which recipe they start from, and what they change in it.

    Attributes:
        name: of the folder that holds the run folders.
        base: a recipe's path or shipped name.
        overrides: `key.path=value`, for every run.
        widths: hidden units of both layers of the students; the first one is that of all other
            experiments.
        members: of the ensemble.
        few: the share of the rows with which soft targets are to be a regularizer.
        absent: names of the classes that one transfer set lacks.
        present: names of the only classes of another.
        repeated: part -> how many times as many epochs as the base has; sets of few rows make
            short epochs.
        about: how it differs from what the paper did, in a sentence.
    """

    name: str
    base: str
    overrides: tuple[str, ...] = ()
    widths: tuple[int, ...] = (800, 300, 30)
    members: int = 10
    few: float = 0.03
    absent: tuple[str, ...] = ("3",)
    present: tuple[str, ...] = ("7", "8")
    repeated: tuple[tuple[str, float], ...] = ((FEW, 5.0), (STOPPED, 5.0))
    about: str = ""

    @property
    def first(self) -> str:
        """The run folder with the teacher and the transfer set that others share."""
        return width_part(self.widths[0])


SCALES: Mapping[str, Scale] = {
    "mnist": Scale(
        "reproduce-mnist",
        "mnist",
    ),
    "mnist-quick": Scale(
        "reproduce-mnist-quick",
        "mnist-quick",
        overrides=(
            "objective.hard_weight=0.1",
            "train.epochs=8",
            "train.seeds=[0, 1]",
        ),
        repeated=(("7s-8s", 2.0), (FEW, 10.0), (STOPPED, 10.0)),
        about="A quarter of the teacher's epochs, a fifth of the students', two seeds of three.",
    ),
}
"""Name -> scale."""


def width_part(width: int) -> str:
    """The run folder with the students of a width.

    >>> width_part(30)
    'width-30'
    """
    return f"width-{width}"


def scale_of(name: str, *, quick: bool) -> Scale:
    """The experiments of a dataset, large or quick.

    Raises:
        UnknownNameError: there are none of it.
    """
    large = {key: scale for key, scale in SCALES.items() if not key.endswith(QUICK)}
    pick("reproduction", large, name)
    return SCALES[f"{name}{QUICK}" if quick else name]
