"""`[sweep]`: what is searched, by which rule, and how long."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from kd_ray.config.table import Count, EachOnce, Seed, Seeds, Table

Direction = Literal["maximize", "minimize"]
Figure = Literal[
    "accuracy",
    "errors",
    "loss",
    "calibration_error",
    "agreement",
    "divergence",
    "word_errors",
    "word_error_rate",
]
Cost = Literal["packed_bytes", "bit_operations"]
MAXIMIZED = {"accuracy", "agreement"}
Value = bool | int | float | str | list[Any]


def _listed(value: Any) -> Any:
    """A single name stands for a list of one."""
    return [value] if isinstance(value, str) else value


class Range(Table):
    """One entry of `[sweep.space]`: the values that a key of the recipe may take."""

    uniform: list[float] | None = None
    """Numbers between the two, evenly."""

    log_uniform: list[float] | None = None
    """Numbers between the two, evenly over the logarithm."""

    integer: list[int] | None = None
    """Whole numbers from the first to the second, both included."""

    log_integer: list[int] | None = None
    """Whole numbers from the first to the second, evenly over the logarithm."""

    choice: Annotated[list[Value] | None, Field(min_length=1), EachOnce] = None
    """One of these values."""

    times: Literal["T^2"] | None = None
    """For objective.soft_weight alone: numbers are c / T^2, so that T can be searched beside it."""

    or_zero: bool = False
    """For objective.soft_weight alone: 0, no soft term at all, is one more choice."""

    @property
    def ends(self) -> list[float] | list[int]:
        """Both ends of a range; empty of a choice."""
        return self.uniform or self.log_uniform or self.integer or self.log_integer or []

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.integer is not None or self.log_integer is not None

    @property
    def is_log(self) -> bool:
        """Whether its values are spread over the logarithm."""
        return self.log_uniform is not None or self.log_integer is not None

    @model_validator(mode="after")
    def _rules(self) -> Self:
        kinds = ("uniform", "log_uniform", "integer", "log_integer", "choice")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(kinds)} is needed, but got {given}")
        kind, values = given[0], getattr(self, given[0])
        if self.or_zero and kind == "choice":
            raise ValueError("or_zero goes with a range; put 0 among the choices instead")
        if kind == "choice":
            return self
        if len(values) != 2 or not values[0] < values[1]:
            raise ValueError(
                f"{kind} must be [low, high] with low < high, but got {values}; turn them round, or"
                " leave the key out of the space to keep it as it is"
            )
        if self.is_log and values[0] <= 0:
            raise ValueError(
                f"{kind} must start above 0, where the logarithm begins, but got {values}"
                + ("; use or_zero for no soft term" if self.times else "")
            )
        return self


class SweepOptions(Table):
    """`[sweep]`: many students from one transfer set, and the best of them."""

    space: dict[str, Range] = Field(min_length=1)
    """Key of the recipe -> the values it may take; keys of objective, student and train."""

    trials: Count = 32
    """Students in all; asking for more later goes on with a finished sweep."""

    metric: Annotated[list[Figure | Cost], EachOnce, BeforeValidator(_listed)] = Field(
        default=["accuracy"], min_length=1
    )
    """Figures on the validation rows, or costs of the model; several are several objectives."""

    direction: Annotated[list[Direction] | None, BeforeValidator(_listed)] = None
    """Direction of each metric; unset, accuracy and agreement are maximized, others minimized."""

    sampler: Literal["tpe", "random", "grid", "nsga2", "gp"] = "tpe"
    """How Optuna chooses the next point; grid goes through all choices."""

    scheduler: Literal["asha", "median", "none"] | None = None
    """Which trials are stopped early, by their epochs; unset, asha, or none where there are several
    objectives."""

    grace: Count = 3
    """Epochs before a trial may be stopped."""

    reduction: int = Field(default=3, ge=2)
    """One trial in so many goes on at each of asha's rungs."""

    seeds: Seeds = Field(default=[0])
    """Students of one trial, which is as good as their mean."""

    seed: Seed = 0
    """Seed of the sampler."""

    hold_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the transfer set's training rows that trials are compared by instead of trained on,
    where data.validation is 0; it takes the place of train.hold_out."""

    enqueue: list[dict[str, Value]] | None = None
    """Points to try first, key -> value as in a recipe; keys left out are sampled. Unset, c = T^2
    at T = 4 and 20 where these are in the space."""

    fuse: Count | Literal["auto"] = "auto"
    """Trials that are handed out together and trained as one. "auto": 8, or 64 of a sampler that
    does not learn from them, as long as the first ones take less time so; 1: each alone."""

    max_failures: int = Field(default=3, ge=0)
    """Failed trials that are put up with before the sweep stops."""

    @property
    def metrics(self) -> list[str]:
        """The objectives, in order."""
        return list(self.metric)

    @property
    def directions(self) -> list[Direction]:
        """One for each metric."""
        if self.direction is None:
            return ["maximize" if name in MAXIMIZED else "minimize" for name in self.metric]
        return list(self.direction)

    @property
    def stopping(self) -> Literal["asha", "median", "none"]:
        """The scheduler, filled in."""
        return self.scheduler or ("asha" if len(self.metrics) == 1 else "none")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if len(self.directions) != len(self.metrics):
            raise ValueError(
                f"direction must be one for each metric, but got {self.directions} for "
                f"{self.metrics}"
            )
        if len(self.metrics) > 1 and self.stopping != "none":
            raise ValueError(
                f"scheduler {self.scheduler} stops trials by one metric, but got {self.metrics}; "
                'use scheduler = "none" with several objectives'
            )
        if self.stopping != "none" and self.metrics[0] in ("packed_bytes", "bit_operations"):
            raise ValueError(
                f"scheduler {self.stopping} compares epochs, but {self.metrics[0]} is the same in "
                'all of them; use scheduler = "none"'
            )
        for key, values in self.space.items():
            if (values.times or values.or_zero) and key != "objective.soft_weight":
                raise ValueError(f"space.{key}: times and or_zero go with objective.soft_weight")
            if self.sampler == "grid" and values.choice is None:
                raise ValueError(
                    f"space.{key}: sampler grid goes through choices, but this is a range; "
                    "use choice, or another sampler"
                )
        return self
