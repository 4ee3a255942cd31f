"""The stage that combines generalist and specialists into the logits of one more transfer set.

A student learns from it as from any other. Its rows are those of the first set; the generalist's
logits are read from there, so that only specialists are run, each on the images it is active for.
"""

import hashlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_ray.files import remove_drafts
from kd_ray.result import JOINT_SET, Result, read_result, write_result
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import finished_result
from kd_ray.runs.group_classes import labelled_parent, options_of, read_groups
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import set_line, set_result, transfer_set_folder, write_shards
from kd_ray.runs.rows import Rendered, SplitRows, labelled_rows
from kd_ray.runs.specialize import (
    generalist_folder,
    load_generalist,
    load_specialists,
    specialist_folder,
)
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.specialists import (
    ClassGroups,
    by_coverage,
    combine,
    confusion,
    coverage,
    gather_beliefs,
)
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.predict import one_thread, raw_logits
from kd_ray.training.saved_model import SavedModel
from kd_ray.training.workers import Worker, from_first, summed, together
from kd_ray.transfer_set import (
    Manifest,
    Plan,
    Rows,
    Shard,
    SplitName,
    TransferSet,
    check_fit,
    open_transfer_set,
    shards,
    write_manifest,
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
        rows: its rows with their pixels, by split.
        generalist: which of its teachers is the generalist.
        groups: classes of the specialists.
        specialists: in evaluation mode.
        top_n: how many of the generalist's choices make a specialist active.
        device: where the specialists run.
    """

    source: TransferSet
    rows: dict[SplitName, SplitRows]
    generalist: int
    groups: ClassGroups
    specialists: Sequence[SavedModel]
    top_n: int
    device: torch.device

    def logits(self, shard: Shard, images: Tensor) -> tuple[Tensor, float]:
        """Log q of the rows of a shard, and what is left of the gradient.

        Args:
            shard: n rows.
            images: of them, `(n, C, H, W)` uint8.

        Returns:
            `(n, 1, K)` float32 on the CPU, and the largest partial derivative.
        """
        parts, left = [], 0.0
        for start in range(0, shard.rows, ROWS_AT_ONCE):
            part = images[start : start + ROWS_AT_ONCE]
            combined = self._combined(shard, torch.arange(start, start + len(part)), part)
            parts.append(combined.logits.float().cpu())
            left = max(left, combined.gradient)
        return torch.cat(parts).unsqueeze(1), left

    def _combined(self, shard: Shard, places: Tensor, images: Tensor) -> Any:
        def probabilities(specialist: int, chosen: Tensor) -> Tensor:
            logits = raw_logits([self.specialists[specialist]], images[chosen.cpu()], self.device)
            return logits[:, 0].double().softmax(dim=1)

        number, view = self.rows[shard.split].image_and_view(shard.start + places)
        labelled: Rows = getattr(self.source, shard.split)
        beliefs = gather_beliefs(
            labelled.logits[number, view, self.generalist].to(self.device),
            self.groups.special,
            probabilities,
            self.top_n,
        )
        return combine(beliefs)


def open_joint(task: Task, device: torch.device, inputs: Inputs) -> tuple[Joint, dict[str, str]]:
    """What the task works on, checked, and its parents' sha256."""
    options, run = options_of(task.recipe), task.run_folder
    source = open_transfer_set(transfer_set_folder(task.recipe, run))
    dataset = inputs.dataset(task.data)
    check_fit(
        source.manifest, dataset_fingerprint=dataset.fingerprint, class_names=dataset.class_names
    )
    generalist = load_generalist(task.recipe, run, source.manifest)
    groups, sha256 = read_groups(run)
    specialists = load_specialists(run, groups, dataset.class_names, device)
    parents = {
        "dataset": dataset.fingerprint,
        "transfer_set": source.manifest.sha256,
        "generalist": generalist.sha256,
        "clusters": sha256,
        **{f"specialist-{n:02d}": saved.sha256 for n, saved in enumerate(specialists)},
    }
    joint = Joint(
        source,
        labelled_rows(source, dataset),
        options.generalist,
        groups,
        specialists,
        min(options.top_n, len(dataset.class_names)),
        device,
    )
    return joint, parents


def joint_plan(joint: Joint, parents: dict[str, str], accuracy: float) -> Plan:
    """The plan of the specialists' transfer set: that of the first, with another teacher.

    That teacher's sha256 is over the generalist, the specialists, their classes and the options.
    """
    plan = joint.source.manifest.plan
    model: dict[str, Any] = {
        "name": JOINT_TEACHER,
        "generalist": plan.teachers[joint.generalist].model,
        "special": [list(some) for some in joint.groups.special],
        "top_n": joint.top_n,
    }
    made_of = canonical_json({"parents": parents, "top_n": joint.top_n})
    teacher = {
        "sha256": hashlib.sha256(made_of.encode()).hexdigest(),
        "model": model,
        "accuracy": accuracy,
        "class_names": list(plan.class_names),
    }
    return Plan.model_validate({**plan.model_dump(mode="json"), "teachers": [teacher]})


def _folder(run: Path) -> Path:
    return run / "specialists" / "transfer_set"


def _tasks(request: Request) -> list[Task]:
    return [request.task(COMBINE)]


def _identity(task: Task) -> dict[str, Any]:
    options = options_of(task.recipe).model_dump(mode="json")
    return {"specialists": {name: options[name] for name in ("generalist", "count", "top_n")}}


def _parents(task: Task) -> dict[str, str]:
    run = task.run_folder
    folders = {
        f"specialist-{number:02d}": specialist_folder(run, number)
        for number in range(options_of(task.recipe).count)
    }
    folders["generalist"] = generalist_folder(task.recipe, run)
    results = {name: read_result(folder) for name, folder in folders.items()}
    made = {name: result.fingerprint for name, result in results.items() if result}
    return {**made, **labelled_parent(task)}


def _perform(task: Task, worker: Worker, inputs: Inputs) -> Generator[Event]:
    with together(worker.device):
        joint, parents = open_joint(task, worker.device, inputs)
        result = finished_result(task, parents)
    if from_first(int(result is not None), worker.device):
        assert result is not None
        yield Finished(result, existed=True)
        return
    yield Started(0, 0)
    started = time.perf_counter()
    with together(worker.device):  # no worker may write before old drafts are gone
        if worker.is_first:
            remove_drafts(task.folder)
    with together(worker.device), one_thread(worker.device):
        # Each file states the accuracy of its teacher, so the test rows come before all others.
        mine = shards(joint.source.manifest.plan)[worker.rank :: worker.world]
        tested = {s: _tested(joint, s) for s in mine if s.split == "test"}
        right = sum(_right(joint.source.test, s, logits) for s, (logits, _) in tested.items())
    right = int(summed(torch.tensor([float(right)], device=worker.device)).item())
    gradients = [0.0]

    def logits_of(shard: Shard, part: Rendered) -> Tensor:
        known = tested.get(shard)
        logits, left = joint.logits(shard, part.images) if known is None else known
        gradients.append(left)
        return logits

    with together(worker.device):
        plan = joint_plan(joint, parents, right / len(joint.source.test.index))
        yield from write_shards(task.folder, plan, joint.rows, logits_of, worker)
    with together(worker.device):
        if worker.is_first:
            manifest = write_manifest(task.folder, plan)
            seconds = time.perf_counter() - started
            result = _result(task, joint, manifest, seconds, max(gradients), parents)
            write_result(task.folder, result)
    with together(worker.device):
        result = read_result(task.folder)
        assert result is not None
        yield Finished(result, existed=False)


def _tested(joint: Joint, shard: Shard) -> tuple[Tensor, float]:
    part = joint.rows[shard.split].rendered(torch.arange(shard.start, shard.stop))
    return joint.logits(shard, part.images)


def _right(rows: Rows, shard: Shard, logits: Tensor) -> int:
    """Right first choices among the test rows of a shard."""
    return int((logits[:, 0].argmax(dim=1) == rows.labels[shard.start : shard.stop]).sum())


def _result(
    task: Task,
    joint: Joint,
    manifest: Manifest,
    seconds: float,
    left: float,
    parents: dict[str, str],
) -> Result:
    """What the specialists are worth on the test rows."""
    joined = open_transfer_set(task.folder, verify=False).test.logits[:, 0, 0]
    generalist = joint.source.test.logits[:, 0, joint.generalist]
    labels, groups = joint.source.test.labels, joint.groups
    before, after = generalist.argmax(dim=1), joined.argmax(dim=1)
    rate = sum(entry.rows for entry in manifest.files) / seconds
    return set_result(
        task,
        manifest,
        rate,
        seconds,
        parents=parents,
        generalist=summarize(tally(generalist, labels)),
        combined=summarize(tally(joined, labels)),
        coverage=by_coverage(labels, before, after, coverage(labels, groups)),
        confusion_before=confusion(labels, before, groups.of_class),
        confusion_after=confusion(labels, after, groups.of_class),
        gradient=left,
        teacher_sha256=manifest.plan.teachers[0].sha256,
    )


COMBINE = Stage(
    name="combine",
    kind=JOINT_SET,
    commands=("specialize",),
    table="specialists",
    tasks=_tasks,
    title=lambda task: "specialists' transfer set",
    folder=lambda task: _folder(task.run_folder),
    identity=_identity,
    parents=_parents,
    perform=_perform,
    summary=set_line,
)
