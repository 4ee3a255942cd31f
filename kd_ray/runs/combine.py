"""The stage that combines generalist and specialists into the logits of one more transfer set.

A student learns from it as from any other. Its rows are those of the first set; the generalist's
logits are read from there, so that only specialists are run, each on the images it is active for.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd_ray.config import Augment, Recipe
from kd_ray.datasets import Dataset, Split, render
from kd_ray.files import remove_drafts, to_path, write_json
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import RESULT, finished_result, read_result
from kd_ray.runs.group_classes import read_groups
from kd_ray.runs.identity import identity
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.labelling import ShardDone, one_thread, teacher_logits
from kd_ray.runs.specialize import load_generalist, load_specialists
from kd_ray.runs.task import Task, transfer_set_folder
from kd_ray.specialists import (
    ClassGroups,
    by_coverage,
    combine,
    confusion,
    coverage,
    gather_beliefs,
)
from kd_ray.training.checkpoint import versions
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.saved_model import SavedModel
from kd_ray.training.workers import Worker, from_first, summed, together
from kd_ray.transfer_set import (
    Manifest,
    Plan,
    Rows,
    Shard,
    TransferSet,
    bytes_per_row,
    check_fit,
    open_transfer_set,
    shard_state,
    shards,
    write_manifest,
    write_shard,
)
from kd_ray.transfer_set.plan import canonical_json

JOINT_TEACHER = "specialists"
"""Name of generalist and specialists together, where a transfer set names its teacher's model."""

ROWS_AT_ONCE = 1024
"""Images whose distributions are found together: some megabytes at a thousand classes."""


@dataclass(frozen=True)
class Joint:
    """Everything that is combined, and where it is computed.

    Attributes:
        source: the generalist's transfer set.
        dataset: its pixels.
        generalist: which of its teachers is the generalist.
        groups: classes of the specialists.
        specialists: in evaluation mode.
        top_n: how many of the generalist's choices make a specialist active.
        device: where the specialists run.
    """

    source: TransferSet
    dataset: Dataset
    generalist: int
    groups: ClassGroups
    specialists: Sequence[SavedModel]
    top_n: int
    device: torch.device


def combine_stage(task: Task, worker: Worker, inputs: Inputs) -> Iterator[Event]:
    """Writes the specialists' transfer set of a "combine" task, from wherever it is."""
    recipe = task.read_recipe()
    with together(worker.device):
        joint, parents = open_joint(task, recipe, worker, inputs)
        result = finished_result(task, parents)
    if from_first(int(result is not None), worker.device):
        yield Finished(result or {}, found=True)
        return
    yield Started(0, 0)
    started = time.perf_counter()
    with together(worker.device):  # no worker may write before old drafts are gone
        if worker.is_first:
            remove_drafts(task.folder)
    with together(worker.device), one_thread(worker.device):
        # Each file states the accuracy of its teacher, so the test rows come before all others.
        mine = shards(joint.source.manifest.plan)[worker.rank :: worker.world]
        tested = {s: joint_logits(joint, s) for s in mine if s.split == "test"}
        found = [_right(joint.source.test, shard, logits) for shard, (logits, _) in tested.items()]
    right = int(summed(torch.tensor([float(sum(found))], device=worker.device)).item())
    with together(worker.device):
        accuracy = right / len(joint.source.test.index)
        plan = joint_plan(joint, parents, accuracy)
        left = 0.0
        with one_thread(worker.device):
            for event, gradient in _write(task, joint, plan, mine, tested, worker):
                left = max(left, gradient)
                yield event
    with together(worker.device):
        if worker.is_first:
            manifest = write_manifest(task.folder, plan)
            seconds = time.perf_counter() - started
            finished = _result(task, joint, manifest, seconds, left)
            write_json(task.folder / RESULT, {**finished, "parents": parents})
    with together(worker.device):
        yield Finished(read_result(task.folder) or {}, found=False)


def joint_logits(joint: Joint, shard: Shard) -> tuple[Tensor, float]:
    """Log q of the rows of a shard, `(n, 1, K)` float32, and what is left of the gradient."""
    rows: Rows = getattr(joint.source, shard.split)
    split: Split = getattr(joint.dataset, shard.split)
    plan = joint.source.manifest.plan
    augment = Augment.model_validate(plan.augment)
    parts, left = [], 0.0
    for start in range(shard.start, shard.stop, ROWS_AT_ONCE):
        place = torch.arange(start, min(start + ROWS_AT_ONCE, shard.stop))
        number, view = place // plan.views_of(shard.split), place % plan.views_of(shard.split)
        index = rows.index[number]
        images = render(split.images[index], index, view, augment, plan.seed)

        def probabilities(specialist: int, chosen: Tensor, images: Tensor = images) -> Tensor:
            saved = joint.specialists[specialist]
            logits = teacher_logits([saved], images[chosen.cpu()], joint.device)
            return logits[:, 0].double().softmax(dim=1)

        beliefs = gather_beliefs(
            rows.logits[number, view, joint.generalist].to(joint.device),
            joint.groups.special,
            probabilities,
            joint.top_n,
        )
        combined = combine(beliefs)
        parts.append(combined.logits.float().cpu())
        left = max(left, combined.gradient)
    return torch.cat(parts).unsqueeze(1), left


def joint_plan(joint: Joint, parents: dict[str, str], accuracy: float) -> Plan:
    """The plan of the specialists' transfer set: that of the first, with another teacher.

    That teacher's sha256 is over the generalist, the specialists, their classes and the options.
    """
    plan = joint.source.manifest.plan
    told: dict[str, Any] = {
        "name": JOINT_TEACHER,
        "generalist": plan.teachers[joint.generalist].model,
        "special": [list(some) for some in joint.groups.special],
        "top_n": joint.top_n,
    }
    teacher = {
        "sha256": joint_sha256(parents, joint.top_n),
        "model": told,
        "accuracy": accuracy,
        "class_names": list(plan.class_names),
    }
    return Plan.model_validate({**plan.model_dump(mode="json"), "teachers": [teacher]})


def joint_sha256(parents: dict[str, str], top_n: int) -> str:
    """The identity of generalist and specialists as one teacher."""
    return hashlib.sha256(canonical_json({"parents": parents, "top_n": top_n}).encode()).hexdigest()


def open_joint(
    task: Task, recipe: Recipe, worker: Worker, inputs: Inputs
) -> tuple[Joint, dict[str, str]]:
    """What a "combine" task works on, checked, and its parents' sha256."""
    options = recipe.specialists
    assert options is not None
    run = to_path(task.run)
    source = open_transfer_set(transfer_set_folder(recipe, run))
    dataset = inputs.dataset(recipe)
    check_fit(
        source.manifest, dataset_fingerprint=dataset.fingerprint, class_names=dataset.class_names
    )
    generalist = load_generalist(recipe, run, source.manifest)
    groups, sha256 = read_groups(run)
    specialists = load_specialists(task, groups, dataset.class_names, worker.device)
    parents = {
        "dataset": dataset.fingerprint,
        "transfer_set": source.manifest.sha256,
        "generalist": generalist.sha256,
        "clusters": sha256,
        **{f"specialist-{n:02d}": saved.sha256 for n, saved in enumerate(specialists)},
    }
    joint = Joint(
        source,
        dataset,
        options.generalist,
        groups,
        specialists,
        min(options.top_n, len(dataset.class_names)),
        worker.device,
    )
    return joint, parents


def _right(rows: Rows, shard: Shard, logits: Tensor) -> int:
    """Right first choices among the test rows of a shard."""
    return int((logits[:, 0].argmax(dim=1) == rows.labels[shard.start : shard.stop]).sum())


def _write(
    task: Task,
    joint: Joint,
    plan: Plan,
    mine: Sequence[Shard],
    known: dict[Shard, tuple[Tensor, float]],
    worker: Worker,
) -> Iterator[tuple[ShardDone, float]]:
    """Writes this worker's shards that are not there yet; with what is left of each gradient."""
    all_rows = sum(shard.rows for shard in mine)
    done_rows = 0
    for shard in mine:
        found = shard_state(task.folder, plan, shard) == "whole"
        left = 0.0
        if not found:
            logits, left = known[shard] if shard in known else joint_logits(joint, shard)
            rows: Rows = getattr(joint.source, shard.split)
            index, view = shard.index_and_view(rows.index.numpy(), plan.views_of(shard.split))
            write_shard(
                task.folder,
                plan,
                shard,
                index=index,
                view=view,
                label=rows.labels.numpy()[_numbers(shard, plan)],
                logits=logits.numpy(),
                image=_pixels(joint, shard, plan) if plan.include_images else None,
            )
        done_rows += shard.rows
        yield ShardDone(shard.name, shard.rows, done_rows, all_rows, found, worker.rank), left


def _numbers(shard: Shard, plan: Plan) -> npt.NDArray[np.int64]:
    """Which of the labelled images the rows of a shard are of, `(n,)`."""
    return np.arange(shard.start, shard.stop) // plan.views_of(shard.split)


def _pixels(joint: Joint, shard: Shard, plan: Plan) -> npt.NDArray[np.uint8]:
    """The images of the rows of a shard, `(n, C, H, W)`, as the first set has them."""
    rows: Rows = getattr(joint.source, shard.split)
    assert rows.images is not None
    found: npt.NDArray[np.uint8] = rows.images.flatten(0, 1)[shard.start : shard.stop].numpy()
    return found


def _result(
    task: Task, joint: Joint, manifest: Manifest, seconds: float, left: float
) -> dict[str, Any]:
    """The content of `result.json`: what the specialists are worth on the test rows."""
    joined = open_transfer_set(task.folder, verify=False).test.logits[:, 0, 0]
    generalist = joint.source.test.logits[:, 0, joint.generalist]
    labels, groups = joint.source.test.labels, joint.groups
    before, after = generalist.argmax(dim=1), joined.argmax(dim=1)
    rows = sum(entry.rows for entry in manifest.files)
    return {
        "stage": task.stage,
        "name": task.recipe["name"],
        "status": "finished",
        "title": task.title,
        "metrics": {
            "rows": rows,
            "bytes": sum(entry.bytes for entry in manifest.files),
            "bytes_per_row": round(bytes_per_row(manifest), 2),
        },
        "generalist": summarize(tally(generalist, labels)),
        "combined": summarize(tally(joined, labels)),
        "coverage": by_coverage(labels, before, after, coverage(labels, groups)),
        "confusion_before": confusion(labels, before, groups.of_class),
        "confusion_after": confusion(labels, after, groups.of_class),
        "gradient": left,
        "images_per_s": round(rows / seconds, 1),
        "seconds": round(seconds, 2),
        "resumed_from": None,
        "sha256": manifest.sha256,
        "teacher_sha256": manifest.plan.teachers[0].sha256,
        "identity": identity(task),
        "recipe": task.recipe,
        "versions": versions(),
    }
