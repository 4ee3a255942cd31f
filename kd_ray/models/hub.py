"""Models of timm and of Hugging Face transformers, which are optional."""

import difflib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_ray.config import InputOptions
from kd_ray.errors import ConfigError, shown
from kd_ray.files import sha256_of
from kd_ray.models.weights import Pretrained, state_sha256

TIMM, HF = "timm/", "hf/"
SET_HERE = ("num_classes", "in_chans", "pretrained", "checkpoint_path", "num_labels")
LEFT_OUT = {"id2label", "label2id", "auto_map", "quantization_config", "dtype", "torch_dtype"}
"""Of a configuration: the names of classes are the data's matter, code in the folder is never run,
and weights are trained in float32."""


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
    architecture = name.removeprefix(TIMM).partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        guess = f"; did you mean {', '.join(near)}?" if near else "; choose one of its own"
        return [f"{where}.name: timm has no model {shown(architecture)}{guess}"]
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
        raise _not_had("timm", name.removeprefix(TIMM), error) from error
    known = timm.data.resolve_data_config({}, model=model)
    wanted = InputOptions(
        size=known["input_size"][-1],
        mean=list(known["mean"]),
        std=list(known["std"]),
        interpolation=known["interpolation"],
    )
    state = model.state_dict()
    return Pretrained(state, state_sha256(state), model.num_classes, wanted)


def _not_had(library: str, name: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0][:160].rstrip(".") if str(error).strip() else ""
    return ConfigError(
        f"{library} cannot give {shown(name)} ({reason or type(error).__name__}); correct the "
        "name, or download it where there is a network"
    )


def hf_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a model of transformers and its options, one sentence each."""
    try:
        config = hf_described(name, options)["config"]
        kinds = _library("transformers", "hf").models.auto.modeling_auto
        if config.get("model_type") not in kinds.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            raise ConfigError(
                f"transformers has no image classifier of type {shown(config.get('model_type'))}; "
                "name one that is, or update it"
            )
    except ConfigError as error:
        return [f"{where}.name: {error}"]
    return _set_here(where, options)


def hf_described(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the configuration that the folder, or the hub, has of the model."""
    transformers = _library("transformers", "hf")
    config = options.get("config")
    if config is None:
        where = name.removeprefix(HF)
        try:
            found = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
        except Exception as error:
            raise _not_had("transformers", where, error) from error
        config = json.loads(found.to_json_string(use_diff=True))
    if not isinstance(config, dict):
        raise ConfigError(f"config must be a table, but is {shown(config)}; leave it out")
    return {**options, "config": _harmless(config)}


def _harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what could have code fetched, or has no part in a classifier."""
    plain = {k: v for k, v in config.items() if k not in LEFT_OUT and not k.startswith("_")}
    return {k: v for k, v in plain.items() if not k.endswith("attn_implementation")}


def hf_model(
    name: str, options: Mapping[str, Any], shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """An image classifier of transformers with fresh weights, which answers with its logits."""
    transformers = _library("transformers", "hf")
    own = hf_described(name, options)
    made = transformers.AutoConfig.for_model(
        **{**own.pop("config"), "num_labels": classes, "num_channels": shape[0], **own}
    )
    model: nn.Module = transformers.AutoModelForImageClassification.from_config(
        made, dtype=torch.float32, trust_remote_code=False
    )
    # Rather than a module around it, so that weights keep the names they have in files.
    model.register_forward_hook(lambda module, images, answer: answer.logits)
    return model


def hf_weights(name: str, options: Mapping[str, Any]) -> Pretrained:
    """The weights in a folder or on the hub, with what its image processor says of the input."""
    transformers = _library("transformers", "hf")
    transformers.logging.disable_progress_bar()
    where = name.removeprefix(HF)
    try:
        model, about = transformers.AutoModelForImageClassification.from_pretrained(
            where, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise _not_had("transformers", where, error) from error
    # It draws what the files lack, such as the head of a model that was never a classifier.
    lacking = set(about["missing_keys"])
    state = {key: value for key, value in model.state_dict().items() if key not in lacking}
    file = Path(where) / "model.safetensors"
    sha256 = sha256_of(file) if file.is_file() else state_sha256(state)
    return Pretrained(state, sha256, model.config.num_labels, _hf_input(where, transformers))


def _hf_input(where: str, transformers: Any) -> InputOptions:
    if Path(where).is_dir() and not (Path(where) / "preprocessor_config.json").is_file():
        return InputOptions()
    try:
        known = transformers.AutoImageProcessor.from_pretrained(
            where, trust_remote_code=False
        ).to_dict()
    except Exception as error:
        raise _not_had("transformers", where, error) from error
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
