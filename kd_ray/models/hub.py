"""Models of timm and of Hugging Face transformers, which are optional."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kd_ray.config import InputOptions
from kd_ray.errors import ConfigError
from kd_ray.files import sha256_of
from kd_ray.models.weights import Pretrained, state_sha256

TIMM, HF = "timm/", "hf/"
SET_HERE = ("num_classes", "in_chans", "pretrained", "checkpoint_path", "num_labels", "config")


def _library(name: str, extra: str) -> Any:
    """An optional library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"models of this kind need {name}, which is not installed ({error}); "
            f"install kd-ray[{extra}]"
        ) from error


def _set_here(where: str, options: Mapping[str, Any]) -> list[str]:
    return [
        f"{where}.{key}: is set by kd-ray from the data and from weights; leave it out"
        for key in options
        if key in SET_HERE
    ]


def timm_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a timm model and its options, one sentence each."""
    try:
        timm = _library("timm", "timm")
    except ConfigError as error:
        return [f"{where}.name: {error}"]
    architecture = name.removeprefix(TIMM)
    if not timm.is_model(architecture.partition(".")[0]):
        near = timm.list_models(f"*{architecture.partition('.')[0][:6]}*")[:3]
        return [
            f"{where}.name: timm has no model {architecture[:60]!r}"
            f"{'; did you mean ' * bool(near)}{', '.join(near)}"
        ]
    return _set_here(where, options)


def timm_model(
    name: str, options: Mapping[str, Any], shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """A timm model with fresh weights, for the channels of the images."""
    timm = _library("timm", "timm")
    made: nn.Module = timm.create_model(
        name.removeprefix(TIMM), num_classes=classes, in_chans=shape[0], **options
    )
    return made


def timm_weights(name: str, options: Mapping[str, Any]) -> Pretrained:
    """Timm's weights of a model, from its cache or the network, with what they were fed."""
    timm = _library("timm", "timm")
    try:
        model = timm.create_model(name.removeprefix(TIMM), pretrained=True, **options)
    except Exception as error:  # the hub's client has its own kinds
        raise _not_had("timm", error) from error
    known = timm.data.resolve_data_config({}, model=model)
    wanted = InputOptions(
        size=known["input_size"][-1],
        mean=list(known["mean"]),
        std=list(known["std"]),
        interpolation=known["interpolation"],
    )
    return _of_model(model, model.num_classes, wanted)


def _of_model(model: nn.Module, outputs: int, wanted: InputOptions) -> Pretrained:
    state = model.state_dict()
    return Pretrained(state, state_sha256(state), outputs, wanted)


def _not_had(library: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0][:160].rstrip(".") if str(error).strip() else ""
    return ConfigError(
        f"{library} cannot give its weights ({reason or type(error).__name__}); download them "
        "where there is a network, and name the file"
    )


class Classifier(nn.Module):
    """An image classifier of transformers that answers with its logits alone."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, H, W)` to logits `(N, K)`."""
        logits: Tensor = self.classifier(pixel_values=images).logits
        return logits


def hf_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a model of transformers and its options, one sentence each."""
    try:
        hf_described(name, options)
    except ConfigError as error:
        return [f"{where}.name: {error}"]
    return _set_here(where, options)


def hf_described(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the configuration that the folder, or the hub, has of the model."""
    if "config" in options:
        return dict(options)
    transformers = _library("transformers", "hf")
    where = name.removeprefix(HF)
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    except Exception as error:
        raise _not_had("transformers", error) from error
    plain = json.loads(config.to_json_string(use_diff=True))
    # What names its classes is the data's matter.
    plain = {k: v for k, v in plain.items() if k not in ("id2label", "label2id")}
    return {**options, "config": plain}


def hf_model(
    name: str, options: Mapping[str, Any], shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """An image classifier of transformers with fresh weights."""
    transformers = _library("transformers", "hf")
    own = hf_described(name, options)
    config = own.pop("config")
    kind = config["model_type"]
    if kind not in transformers.models.auto.CONFIG_MAPPING:
        raise ConfigError(f"transformers has no model of type {kind!r}; update it")
    made = transformers.AutoConfig.for_model(
        **{**config, "num_labels": classes, "num_channels": shape[0], **own}
    )
    try:
        return Classifier(transformers.AutoModelForImageClassification.from_config(made))
    except ValueError as error:
        raise ConfigError(
            f"transformers has no image classifier of type {kind!r}; name one that is"
        ) from error


def hf_weights(name: str, options: Mapping[str, Any]) -> Pretrained:
    """The weights in a folder or on the hub, with what its image processor says of the input."""
    transformers = _library("transformers", "hf")
    transformers.logging.disable_progress_bar()
    where = name.removeprefix(HF)
    try:
        model = transformers.AutoModelForImageClassification.from_pretrained(
            where, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:
        raise _not_had("transformers", error) from error
    found = _of_model(Classifier(model), model.config.num_labels, _hf_input(where, transformers))
    file = Path(where) / "model.safetensors"
    return replace(found, sha256=sha256_of(file)) if file.is_file() else found


def _hf_input(where: str, transformers: Any) -> InputOptions:
    if Path(where).is_dir() and not (Path(where) / "preprocessor_config.json").is_file():
        return InputOptions()
    try:
        known = transformers.AutoImageProcessor.from_pretrained(where).to_dict()
    except Exception as error:
        raise _not_had("transformers", error) from error
    size = known.get("crop_size") or known.get("size") or {}
    side = size.get("height") or size.get("shortest_edge")
    normalizes = known.get("do_normalize", True)
    kinds = {0: "nearest", 2: "bilinear", 3: "bicubic"}
    return InputOptions.model_validate(
        {
            "size": side,
            "mean": known.get("image_mean") if normalizes else None,
            "std": known.get("image_std") if normalizes else None,
            "interpolation": kinds.get(known.get("resample", 2), "bicubic"),
        },
        strict=False,
    )
