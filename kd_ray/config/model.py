"""`model = { ... }`: a net by name, the weights it starts from, and what it is fed."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from kd_ray.config.table import Named, Table, named

LIBRARY = "DEFAULT"
"""The weights that a library has for its own model."""


class InputOptions(Table):
    """What a model is fed, where that differs from the data's own size and normalization."""

    size: int | None = Field(default=None, ge=4, le=1024)
    """Side in pixels to which every view is resized; none for that of the data."""

    mean: list[float] | None = Field(default=None, min_length=1)
    """Mean of each channel that the model expects, of pixels from 0 to 1; none for the data's."""

    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None
    """Standard deviation of each channel that the model expects, as `mean`."""

    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """How pictures are resized; the latter two with antialiasing."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if len(self.mean or []) != len(self.std or []):
            raise ValueError(
                "mean and std go together, one number for each channel, but got "
                f"mean = {self.mean} and std = {self.std}"
            )
        return self


class ModelOptions(Named):
    """A model: its other keys are options of the function that makes it."""

    name: str = Field(max_length=1000)
    """Key of the model catalogue; a torchvision model; `timm/NAME`; `hf/FOLDER-OR-ID`; or a dotted
    path, such as `my_nets:tiny`, to a function of one's own."""

    weights: str | None = None
    """What it starts from: a .safetensors, .pt or .pth file, or "DEFAULT" for the library's own;
    none for new ones."""

    head: Literal["new"] | None = None
    """Leave out the weights whose shape depends on the number of classes."""

    input: InputOptions | None = None
    """What it is fed; filled in from the library's weights where these say it."""

    @model_validator(mode="after")
    def _head_of_weights(self) -> Self:
        if self.head is not None and self.weights is None:
            raise ValueError(
                'head = "new" leaves out a part of weights, but the model has none; name these, or '
                "leave head out"
            )
        return self

    @property
    def weights_file(self) -> str | None:
        """Where its weights lie, if that is a file."""
        return None if self.weights == LIBRARY else self.weights

    @property
    def is_fetched(self) -> bool:
        """Whether making it may ask a library or a hub for files."""
        return self.weights == LIBRARY or (self.name.startswith("hf/") and self.folder is None)

    @property
    def folder(self) -> Path | None:
        """The folder of a model of transformers, if that is here and no name on the hub."""
        path = Path(self.name.removeprefix("hf/"))
        return path if self.name.startswith("hf/") and path.is_dir() else None

    @property
    def sources(self) -> dict[str, list[str]]:
        """Files whose content determines it: what each is -> where it lies."""
        files = {"weights": [self.weights_file]} if self.weights_file else {}
        if self.folder is None:
            return files
        known = {"config": "config.json"}
        if self.weights == LIBRARY:
            known |= {"weights": "model.safetensors", "processor": "preprocessor_config.json"}
        return files | {what: [str(self.folder / name)] for what, name in known.items()}

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Models without weights are what they were before there were any: so are identities.
        given = {"weights": self.weights, "head": self.head, "input": self.input}
        table: dict[str, Any] = handler(self)
        return {key: value for key, value in table.items() if given.get(key, key) is not None}

    @property
    def determining(self) -> dict[str, Any]:
        """What determines the model, as plain values; of a file of weights, its content does."""
        weights = {"weights": "file"} if self.weights_file else {}
        return self.model_dump(mode="json") | {"name": self.shown_name} | weights

    @property
    def shown_name(self) -> str:
        """Its name without the place of its folder, which determines nothing and may be gone."""
        return f"hf/{Path(self.name).name}" if self.name.startswith("hf/") else self.name

    def with_absolute_paths(self) -> "ModelOptions":
        """The same model for processes with another working directory."""
        changed = {}
        if self.weights_file and "://" not in self.weights_file:
            changed["weights"] = str(Path(self.weights_file).absolute())
        if self.folder is not None:
            changed["name"] = f"hf/{self.folder.absolute()}"
        return self.model_copy(update=changed)


ModelEntry = Annotated[ModelOptions, BeforeValidator(named)]
