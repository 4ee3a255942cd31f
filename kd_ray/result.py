"""The record of a finished artefact: `result.json`, written and read here and nowhere else."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kd_ray.errors import CheckpointError
from kd_ray.files import write_json

RESULT = "result.json"
TEACHER, SPECIALIST, STUDENT = "teacher", "specialist", "student"
TRANSFER_SET, JOINT_SET = "transfer set", "specialists' transfer set"
CLASS_GROUPS, SWEEP = "class groups", "sweep"

KINDS = {
    "teach": TEACHER,
    "label": TRANSFER_SET,
    "cluster": CLASS_GROUPS,
    "specialize": SPECIALIST,
    "combine": JOINT_SET,
    "distill": STUDENT,
    "tune": SWEEP,
}
"""Stage -> kind, for results that are older than the key."""


class Result(BaseModel):
    """What a finished artefact says of itself.

    Further keys are the stage's own; they are in `details`.

    Attributes:
        stage: the name of the stage that made it.
        kind: what it is, such as `TEACHER`; figures are grouped by it.
        name: the recipe's name.
        status: "finished"; a sweep that may go on is "unfinished".
        title: what a person calls it.
        variant: the student's variant; empty for everything else.
        seed: the student's seed.
        metrics: figures by name; of a model those of `metrics.summarize` on the test split.
        parameters: the number of the model's parameters.
        packed_bytes: the model's size with weights at their bits; None where it was not counted.
        bit_operations: for one image; None where they were not counted.
        layers: the cost of each layer, see `quant.LayerCost`.
        images_per_s: the rate of training or labelling.
        seconds: how long it took, all interrupted attempts together.
        epochs: epochs trained.
        checkpoint: the folder of the checkpoint that is the result.
        weights_sha256: the sha256 of its weights.
        sha256: the sha256 of an artefact that is no model.
        dead_layers: names of low-bit layers whose activations lie on one level.
        resumed_from: the epoch that the last attempt went on from.
        parents: artefact -> sha256 of what it was made from.
        identity: dotted key -> value of the recipe's part that determined it.
        recipe: the resolved recipe.
        versions: package -> version.
        history: a record of metrics for each epoch.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    stage: str
    kind: str
    name: str
    status: Literal["finished", "unfinished"] = "finished"
    title: str
    variant: str = ""
    seed: int = 0
    metrics: dict[str, int | float]
    parameters: int = 0
    packed_bytes: int | None = None
    bit_operations: int | None = None
    layers: list[dict[str, Any]] = []
    images_per_s: float = 0.0
    seconds: float
    epochs: int = 0
    checkpoint: str | None = None
    weights_sha256: str | None = None
    sha256: str | None = None
    dead_layers: list[str] = []
    resumed_from: int | None = None
    parents: dict[str, str] = {}
    identity: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}
    history: list[dict[str, Any]] = []

    @model_validator(mode="before")
    @classmethod
    def _with_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and "kind" not in values and "stage" in values:
            return {**values, "kind": KINDS.get(values["stage"], values["stage"])}
        return values

    @property
    def details(self) -> dict[str, Any]:
        """What the stage alone has to say."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def fingerprint(self) -> str:
        """The sha256 by which other artefacts name this one as their parent."""
        return self.weights_sha256 or self.sha256 or ""


def write_result(folder: Path, result: Result) -> None:
    """Commits the record of an artefact into its folder.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(folder / RESULT, result.model_dump(mode="json", exclude_unset=True))


def read_result(folder: Path) -> Result | None:
    """The record in an artefact's folder, or None while there is none.

    Raises:
        CheckpointError: there is a file, but no record in it.
    """
    file = folder / RESULT
    try:
        return Result.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason: object = error
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise CheckpointError(
            f"{file}: must be a finished result, but cannot be read ({reason}); "
            "remove it and run the same again"
        ) from error
