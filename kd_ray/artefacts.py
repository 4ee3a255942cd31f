"""Looking at artefacts: evaluate a checkpoint, audit a transfer set, inspect what lies there."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.files import to_path
from kd_ray.models.dustbin import special_labels
from kd_ray.quant import dead_layers, model_cost
from kd_ray.report.specialists import group_lines
from kd_ray.runs import JOINT_TEACHER, RESULT, read_result, result_model
from kd_ray.runs.labelling import Audit, audit
from kd_ray.runs.task import teacher_folder
from kd_ray.training.checkpoint import META, Meta, read_meta
from kd_ray.training.feed import feed_of
from kd_ray.training.loop import evaluate
from kd_ray.training.saved_model import load_model
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import bytes_per_row, check_fit, open_transfer_set, read_manifest
from kd_ray.transfer_set.manifest import MANIFEST
from kd_ray.units import bytes_shown, count_shown


def this_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checkpoint_at(path: Path) -> Path:
    """The checkpoint that a path means: an epoch's folder, or the result of a finished training.

    Raises:
        CheckpointError: neither.
    """
    if (path / META).is_file():
        return path
    if (path / RESULT).is_file():
        return result_model(path)
    raise CheckpointError(
        f"{path}: must be a checkpoint (a folder with {META}) or a finished training (with "
        f"{RESULT}), but has neither; name one such as runs/mnist/student/distilled/seed-0"
    )


def evaluate_checkpoint(path: str | Path, root: str | None = None) -> dict[str, float]:
    """Figures of a checkpoint on its dataset's test split; see `metrics.summarize`.

    Args:
        path: of a checkpoint or a finished training, or its URL in a store.
        root: folder of the dataset's files, if not where the recipe or KD_RAY_DATA says.

    Raises:
        CheckpointError: no checkpoint, or the data is not what it was trained on.
    """
    device = this_device()
    saved = load_model(checkpoint_at(to_path(path)), device)
    dataset = _dataset_of(saved.path, saved.meta, root)
    feed = feed_of(dataset.test, saved.meta.input.mean, saved.meta.input.std).to(device)
    if saved.meta.special is not None:
        feed = replace(feed, labels=special_labels(feed.labels, saved.meta.special))
    worker = Worker(rank=0, world=1, device=device, threads=torch.get_num_threads())
    return evaluate(saved.model, feed, worker)


def _dataset_of(path: Path, meta: Meta, root: str | None) -> Dataset:
    recipe = Recipe.model_validate(meta.recipe)
    options = recipe.data.model_copy(update={"root": root or recipe.data.root})
    dataset = open_dataset(options)
    wanted = meta.parents.get("dataset")
    if wanted != dataset.fingerprint:
        raise CheckpointError(
            f"{path}: its dataset has fingerprint {wanted}, but {dataset.name} here has "
            f"{dataset.fingerprint}; give the folder of the same files with --data-root"
        )
    return dataset


def audit_transfer_set(
    folder: str | Path,
    run: str | Path | None = None,
    *,
    root: str | None = None,
    sample: int | None = 1000,
    seed: int = 0,
) -> Audit:
    """Verifies a transfer set's files, then runs its teachers again on sampled rows.

    Args:
        folder: the transfer set, or its URL in a store.
        run: the run folder that has its teachers; by default the one that its recipe names, or
            else the folder's parent.
        root: folder of the dataset's files, if not where the recipe or KD_RAY_DATA says.
        sample: rows per split; None for all.
        seed: of the sample.

    Raises:
        TransferSetError: a file is not as it was written, or the set is of other data or teachers.
        CheckpointError: a teacher is missing.
    """
    given = to_path(folder)
    opened = open_transfer_set(given)
    if opened.manifest.plan.teachers[0].model.get("name") == JOINT_TEACHER:
        raise ConfigError(
            f"{folder}: holds what a generalist and its specialists believe together, which audit "
            "cannot run; audit the transfer set that it was made from, or remove it and run "
            "kd-ray specialize to make it anew"
        )
    if sample is not None and sample < 1:
        raise ConfigError(f"--rows: must be at least 1, but got {sample}; leave it out for 1000")
    home = _teachers_home(given) if run is None else to_path(run)
    device = this_device()
    teachers = [
        load_model(result_model(teacher_folder(home, member)), device)
        for member in range(len(opened.manifest.plan.teachers))
    ]
    check_fit(opened.manifest, teacher_sha256s=[teacher.sha256 for teacher in teachers])
    dataset = _dataset_of(teachers[0].path, teachers[0].meta, root)
    check_fit(
        opened.manifest,
        dataset_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
    )
    return audit(opened, dataset, teachers, sample=sample, seed=seed, device=device)


def _teachers_home(transfer_set: Path) -> Path:
    """The run folder that has a transfer set's teachers, as far as can be told from the set."""
    result = read_result(transfer_set) or {}
    elsewhere = result.get("recipe", {}).get("teacher", {}).get("path")
    return to_path(elsewhere) if elsewhere else transfer_set.absolute().parent


def inspect(where: str | Path) -> tuple[str, Mapping[str, Any]]:
    """What lies at a path or URL: a title, and facts by name.

    Raises:
        KdRayError: it is no artefact, or not a readable one.
    """
    path = to_path(where)
    if (path / MANIFEST).is_file():
        return _transfer_set_facts(path)
    if (path / META).is_file() or (path / RESULT).is_file():
        result = None if (path / META).is_file() else read_result(path)
        if result is not None and result["stage"] == "cluster":
            return _group_facts(path, result)
        return _checkpoint_facts(checkpoint_at(path))
    if (path / "recipe.toml").is_file():
        return _run_facts(path)
    raise ConfigError(
        f"{path}: must be a run folder, a checkpoint or a transfer set, but has none of "
        f"recipe.toml, {META}, {MANIFEST}; name a folder such as runs/quickstart"
    )


def _transfer_set_facts(path: Path) -> tuple[str, dict[str, Any]]:
    manifest = read_manifest(path)
    plan = manifest.plan
    return f"transfer set {path}", {
        "dataset": f"{plan.dataset} ({plan.dataset_fingerprint[:12]})",
        "classes": ", ".join(plan.class_names),
        "rows": ", ".join(f"{name} {plan.rows_of(name):,}" for name in plan.splits),
        "views": plan.views,
        "logits": f"{plan.dtype}, M x K = {plan.logits_shape[0]} x {plan.logits_shape[1]}",
        "images": "stored" if plan.include_images else "in the dataset",
        **{
            f"teacher {number}": f"{teacher.model['name']}, test accuracy {teacher.accuracy:.4f}, "
            f"sha256 {teacher.sha256[:12]}"
            for number, teacher in enumerate(plan.teachers)
        },
        "files": f"{len(manifest.files)}, {sum(f.bytes for f in manifest.files):,} bytes, "
        f"{bytes_per_row(manifest):.1f} per row",
        "sha256": manifest.sha256,
    }


def _group_facts(path: Path, result: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    lines = list(group_lines(dict(result)))
    facts = {}
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        name, _, about = first.partition(": ")
        facts[name] = f"{about};{second[1:]}"
    return f"clusters {path}", {**facts, "sha256": result["sha256"]}


def _checkpoint_facts(path: Path) -> tuple[str, dict[str, Any]]:
    meta = read_meta(path)
    last = meta.history[-1] if meta.history else {}
    return f"{meta.kind} {path}", {
        "epoch": meta.epoch,
        "model": ", ".join(f"{key} = {value}" for key, value in meta.model.items()),
        "input": f"(C, H, W) = {meta.input.shape}, mean {meta.input.mean}, std {meta.input.std}",
        "classes": ", ".join(meta.class_names),
        **_special_facts(meta),
        **_cost_facts(path, last.get("layers", {})),
        **{f"last {key}": value for key, value in last.items() if key not in ("epoch", "layers")},
        **{f"parent {name}": sha256 for name, sha256 in meta.parents.items()},
        **{f"sha256 {name}": sha256 for name, sha256 in meta.files.items()},
        "versions": ", ".join(f"{name} {number}" for name, number in meta.versions.items()),
    }


def _special_facts(meta: Meta) -> dict[str, str]:
    if meta.special is None:
        return {}
    names = ", ".join(meta.class_names[number] for number in meta.special)
    return {"special classes": f"{names}; all others are one output"}


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
    found: dict[str, Any] = {}
    for file in sorted(path.rglob(RESULT)):
        result = read_result(file.parent)
        if result is not None and result["stage"] == "tune":
            counts = result["metrics"]
            found[result["title"]] = f"{counts['trials']} trials; `kd-ray tune show` lists them"
        elif result is not None and not _in_sweep(file.parent, path):
            metrics, place = result["metrics"], file.parent.relative_to(path)
            figure = (
                f"test accuracy {metrics['accuracy']:.4f}"
                if "accuracy" in metrics
                else f"{metrics['rows']:,} rows"
            )
            found[result["title"]] = f"{figure}, {result['seconds']} s, in {place}"
    for folder in sorted({meta.parent.parent for meta in path.rglob(f"epoch-*/{META}")}):
        if not (folder / RESULT).is_file() and not _in_sweep(folder, path):
            found[str(folder.relative_to(path))] = "unfinished; the same command goes on"
    return f"run {path}", found


def _in_sweep(folder: Path, run: Path) -> bool:
    """Whether an artefact is a trial's; a sweep may have hundreds."""
    return any(part.startswith("trial-") for part in folder.relative_to(run).parts)
