"""The record of a finished artefact: `result.json`, written and read here and nowhere else."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from kd_ray.errors import CheckpointError
from kd_ray.files import read_json, ruled, write_json

RESULT = "result.json"
TEACHER, SPECIALIST, STUDENT = "teacher", "specialist", "student"
TRANSFER_SET, JOINT_SET = "transfer set", "specialists' transfer set"
CLASS_GROUPS, SWEEP, EXPORT = "class groups", "sweep", "export"

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

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)]


def _numbers(*keys: str) -> Any:
    """Part of a type: a table needs numbers under these keys."""
    rule = f"there must be a number under each of {', '.join(keys)}"
    return ruled(rule, lambda table: all(isinstance(table.get(key), int | float) for key in keys))


class _Activity(TypedDict):  # see quant.activity
    on: float
    most: float
    levels: list[float]


class _LayerCost(TypedDict):  # see quant.LayerCost
    name: str
    kind: str
    weight_bits: Count
    activation_bits: Count
    packed_bytes: Count
    bit_operations: Count


def _is_nested(line: Mapping[str, Any]) -> bool:
    return all(isinstance(value, dict) == (key == "layers") for key, value in line.items())


if TYPE_CHECKING:
    EpochLine = dict[str, Any]
    """The record of an epoch; see `progress.Epoch`."""
else:
    EpochLine = Annotated[
        dict[str, Number | dict[str, _Activity] | None],
        _numbers("epoch", "seconds", "images_per_s"),
        ruled("an epoch has figures, and tables under layers alone", _is_nested),
    ]

_Table = dict[str, Number | None]
_Accuracy = Annotated[_Table, _numbers("accuracy")]
_Covered = Annotated[_Table, _numbers("specialists", "rows", "correct_before", "correct_after")]


def _is_square(cells: list[list[int]]) -> bool:
    return all(len(line) == len(cells) for line in cells)


_Confusion = Annotated[list[list[Count]], ruled("a table of groups is square", _is_square)]


class _JointSet(TypedDict):
    generalist: _Accuracy
    combined: _Accuracy
    coverage: Annotated[list[_Covered], Field(min_length=1)]
    confusion_before: _Confusion
    confusion_after: _Confusion


class _ClassGroups(TypedDict):
    of_class: list[Count]
    special: list[list[Count]]
    class_names: list[str]


class _File(TypedDict):
    bytes: Count
    sha256: str


class _ExportedLayer(TypedDict):  # see export.net.layers_of
    name: str
    kind: str
    weight_bits: Count
    input_bits: Count
    weights: Count
    output: list[Count]
    is_float: bool


class _Export(TypedDict):
    format: str
    files: Annotated[dict[str, _File], Field(min_length=1)]
    exported_layers: list[_ExportedLayer]


def _is_of_classes(groups: _ClassGroups) -> bool:
    classes = range(len(groups["class_names"]))
    special = [number for some in groups["special"] for number in some]
    fits = len(groups["of_class"]) == len(classes) and set(special) <= set(classes)
    return fits and set(groups["of_class"]) <= set(range(len(groups["special"])))


class _Origin(TypedDict):
    origin: str
    teachers: list[dict[str, Number]]


class _ImportedSet(TypedDict, total=False):  # a set that was labelled has none
    imported: _Origin


DETAILS: dict[str, Any] = {
    TRANSFER_SET: _ImportedSet,
    JOINT_SET: _JointSet,
    EXPORT: _Export,
    CLASS_GROUPS: Annotated[_ClassGroups, ruled("groups are of their classes", _is_of_classes)],
}
"""Kind -> what its further keys hold, as far as somebody reads them."""
FIGURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((TEACHER, SPECIALIST, STUDENT), ("accuracy", "errors")),
    **dict.fromkeys((TRANSFER_SET, JOINT_SET), ("rows", "bytes", "bytes_per_row")),
    CLASS_GROUPS: ("specialists", "smallest", "largest"),
    EXPORT: (
        *("rows", "agreement", "largest_difference", "touched", "accuracy"),
        *("bytes", "float_bytes", "us_per_image", "torch_us_per_image"),
    ),
}
"""Kind -> the figures that its record cannot be without."""


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

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    stage: str
    kind: str
    name: str
    status: Literal["finished", "unfinished"] = "finished"
    title: str
    variant: str = ""
    seed: int = 0
    metrics: dict[str, Number]
    parameters: Count = 0
    packed_bytes: Count | None = None
    bit_operations: Count | None = None
    layers: list[_LayerCost] = []
    images_per_s: float = 0.0
    seconds: float
    epochs: int = 0
    checkpoint: Annotated[str, Field(pattern=r"^epoch-\d+$")] | None = None
    weights_sha256: str | None = None
    sha256: str | None = None
    dead_layers: list[str] = []
    resumed_from: int | None = None
    parents: dict[str, str] = {}
    identity: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}
    history: list[EpochLine] = []

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
        CheckpointError: there is something, but no such record.
    """
    file, mend = folder / RESULT, "remove it and run the same again"
    try:
        result: Result = read_json(file, Result, CheckpointError, mend)
    except FileNotFoundError:
        return None
    if result.kind in DETAILS:
        read_json(file, DETAILS[result.kind], CheckpointError, mend)
    missing = [name for name in FIGURES.get(result.kind, ()) if name not in result.metrics]
    if missing or result.kind != KINDS.get(result.stage, result.kind):
        lack = f"no {missing[0]} among its metrics" if missing else f"stage {result.stage!r}"
        text = f"must be as it was written, but the record of a {result.kind} has {lack}"
        raise CheckpointError(f"{file}: {text}; {mend}")
    return result
