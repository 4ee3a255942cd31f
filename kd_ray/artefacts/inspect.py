"""What lies at a path: a run folder, a model, a transfer set, or another artefact."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kd_ray.artefacts.evaluate import export_at
from kd_ray.datasets.packed.described import packed_facts
from kd_ray.datasets.packed.plan import MANIFEST as PACKED
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.quant import dead_layers, model_cost
from kd_ray.result import Result, read_result
from kd_ray.runs import STAGES
from kd_ray.runs.folder import RECIPE, read_run
from kd_ray.training.checkpoint import META, read_meta
from kd_ray.training.saved_model import load_model
from kd_ray.transfer_set import bytes_per_row, read_manifest
from kd_ray.transfer_set.manifest import MANIFEST
from kd_ray.units import bytes_shown, count_shown

MOST_SHOWN = 4
"""Channels whose figures are shown one by one."""


def inspect(where: str | Path) -> tuple[str, Mapping[str, Any]]:
    """What lies at a path or URL: a title, and facts by name.

    Raises:
        KdRayError: it is no artefact, or not a readable one.
    """
    path = to_path(where)
    if (path / MANIFEST).is_file():
        return _transfer_set_facts(path)
    if (path / PACKED).is_file():
        return packed_facts(path)
    if (path / META).is_file():
        return _checkpoint_facts(path)
    if (export := export_at(path)) is not None:
        return _export_facts(*export)
    result = read_result(path)
    if result is not None and result.checkpoint is None:
        return _result_facts(path, result)
    if result is not None:
        return _checkpoint_facts(path / str(result.checkpoint))
    if (path / RECIPE).is_file():
        return _run_facts(path)
    raise ConfigError(
        f"{path}: must be a run folder, a checkpoint, a transfer set or packed data, but has none "
        f"of {RECIPE}, {META}, {MANIFEST}, {PACKED}; name a folder such as runs/quickstart"
    )


def _transfer_set_facts(path: Path) -> tuple[str, dict[str, Any]]:
    manifest = read_manifest(path)
    plan = manifest.plan
    return f"transfer set {path}", {
        "dataset": f"{plan.dataset} ({plan.dataset_fingerprint[:12]})",
        "classes": ", ".join(plan.class_names),
        "rows": ", ".join(f"{name} {plan.rows_of(name):,}" for name in plan.splits),
        "views": plan.views,
        "logits": f"{plan.dtype}, M x K = {plan.logits_shape[0]} x {plan.logits_shape[1]}"
        + (f", {plan.code.row_bytes:,} bytes a row" if plan.code else ""),
        **{
            f"rebuilt, T = {cost.temperature:g}": f"mean KL {cost.mean:.1e}, largest "
            f"{cost.largest:.1e} nats"
            for cost in manifest.cost
        },
        "images": "stored" if plan.include_images else "in the dataset",
        **{
            f"teacher {number}": f"{teacher.origin}, test accuracy {_share(teacher.accuracy)}, "
            f"sha256 {teacher.sha256[:12]}"
            for number, teacher in enumerate(plan.teachers)
        },
        "files": f"{len(manifest.files)}, {sum(f.bytes for f in manifest.files):,} bytes, "
        f"{bytes_per_row(manifest):.1f} per row",
        "sha256": manifest.sha256,
    }


def _share(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:.4f}"


def _result_facts(path: Path, result: Result) -> tuple[str, dict[str, Any]]:
    """An artefact that is no model: its figures, and what its stage says of it."""
    stage = STAGES.get(result.stage)
    facts: dict[str, Any] = dict(result.metrics)
    lines = "\n".join(stage.details(result) if stage else ()).replace("\n  ", "; ")
    for line in lines.splitlines():
        name, _, about = line.partition(": ")
        facts[name] = about
    return f"{result.title} {path}", {
        **facts,
        "seconds": result.seconds,
        **{f"parent {name}": sha256 for name, sha256 in result.parents.items()},
        "sha256": result.fingerprint,
    }


def _export_facts(folder: Path, result: Result) -> tuple[str, dict[str, Any]]:
    """A file for other machines: its figures, and each layer with its bits."""
    title, facts = _result_facts(folder, result)
    for layer in result.details["exported_layers"]:
        how = "in float" if layer["is_float"] else "exact integers"
        output = " x ".join(map(str, layer["output"]))
        facts[f"layer {layer['name']}"] = (
            f"{layer['kind']}, W {layer['weight_bits']} A {layer['input_bits']}, "
            f"{layer['weights']:,} weights, to {output}, {how}"
        )
    for name, about in result.details["files"].items():
        facts[name] = f"{about['bytes']:,} bytes, sha256 {about['sha256'][:12]}"
    return title, facts


def _checkpoint_facts(path: Path) -> tuple[str, dict[str, Any]]:
    meta = read_meta(path)
    last = meta.history[-1] if meta.history else {}
    special = {}
    if meta.special is not None:
        names = ", ".join(meta.class_names[number] for number in meta.special)
        special["special classes"] = f"{names}; all others are one output"
    return f"{meta.kind} {path}", {
        "epoch": meta.epoch,
        "model": ", ".join(f"{key} = {value}" for key, value in meta.model.items()),
        "input": f"(C, H, W) = {meta.input.shape}, mean {of_channels(meta.input.mean)}, "
        f"std {of_channels(meta.input.std)}",
        "classes": ", ".join(meta.class_names),
        **special,
        **_cost_facts(path, last.get("layers", {})),
        **{f"last {key}": value for key, value in last.items() if key not in ("epoch", "layers")},
        **{f"parent {name}": sha256 for name, sha256 in meta.parents.items()},
        **{f"sha256 {name}": sha256 for name, sha256 in meta.files.items()},
        "versions": ", ".join(f"{name} {number}" for name, number in meta.versions.items()),
    }


def of_channels(values: Sequence[float]) -> str:
    """Figures of channels to read; of many of them, the least and the largest.

    >>> of_channels([0.44653, 0.2]), of_channels([0.5, *[0.25] * 39])
    ('0.4465, 0.2', '0.25 to 0.5')
    """
    shown = values if len(values) <= MOST_SHOWN else sorted(values)[:: len(values) - 1]
    return (", " if shown is values else " to ").join(f"{value:.4g}" for value in shown)


def _cost_facts(path: Path, active: Mapping[str, Any]) -> dict[str, str]:
    """Size and bit operations of a model, layer by layer, with what its activations last did."""
    saved = load_model(path, torch.device("cpu"))
    cost = model_cost(saved.model, saved.meta.input.shape)
    facts = {
        "packed size": f"{bytes_shown(cost.packed_bytes)} ({cost.packed_bytes:,} bytes)",
        "bit operations": f"{count_shown(cost.bit_operations)} for an image",
    }
    for layer in cost.layers:
        facts[f"layer {layer.name}"] = (
            f"{layer.kind}, W {layer.weight_bits} A {layer.activation_bits}, "
            f"{bytes_shown(layer.packed_bytes)}, {count_shown(layer.bit_operations)} bit operations"
        )
    for name, seen in active.items():
        levels = " ".join(f"{100 * share:.1f}" for share in seen["levels"])
        dead = ", dead" if dead_layers({name: seen}) else ""
        facts[f"activations {name}"] = f"{100 * seen['on']:.1f} % on{dead}; levels {levels} %"
    return facts


def _run_facts(path: Path) -> tuple[str, dict[str, Any]]:
    facts = {}
    for artefact in read_run(path).artefacts:
        result, stage = artefact.result, artefact.stage
        if result is None:
            if artefact.history:
                facts[artefact.progress] = "unfinished; the same command goes on"
            continue
        counts = ", ".join(f"{value:,} {name}" for name, value in result.metrics.items())
        line = counts if stage is None else stage.summary(result)
        facts[artefact.title] = f"{line}, {result.seconds} s, in {artefact.place}"
    return f"run {path}", facts
