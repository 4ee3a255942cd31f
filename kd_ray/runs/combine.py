"""The stage that combines generalist and specialists into the logits of one more transfer set.

A student learns from it as from any other. Its rows are those of the first set; the generalist's
logits are read from there, so that only specialists are run, each on the images it is active for.
"""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kd_ray.result import JOINT_SET, read_result
from kd_ray.runs.events import Event
from kd_ray.runs.group_classes import options_of, read_groups
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import labelled_parent, set_fields, set_line, transfer_set_folder, write_set
from kd_ray.runs.make import Made, make
from kd_ray.runs.rows import SplitRows, labelled_rows
from kd_ray.runs.specialize import (
    generalist_folder,
    load_generalist,
    load_specialists,
    specialist_folder,
)
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.specialists import ClassGroups, by_coverage, confusion, coverage
from kd_ray.specialists.combine import Combined, combine, gather_beliefs
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.saved_model import SavedModel, one_thread, raw_logits
from kd_ray.training.workers import Worker, summed, together
from kd_ray.transfer_set import (
    Plan,
    Rows,
    Shard,
    SplitName,
    TransferSet,
    open_transfer_set,
    shards,
)
from kd_ray.transfer_set.plan import canonical_json

JOINT_TEACHER = "specialists"
"""Name of generalist and specialists together, where a transfer set names its teacher's model."""

AT_ONCE = 1024
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
        parents: the sha256 of each thing that it is made from.
        device: where the specialists run.
    """

    source: TransferSet
    rows: dict[SplitName, SplitRows]
    generalist: int
    groups: ClassGroups
    specialists: Sequence[SavedModel]
    top_n: int
    parents: dict[str, str]
    device: torch.device

    def logits(self, shard: Shard, images: Tensor | None = None) -> tuple[Tensor, float]:
        """Log q of the rows of a shard, and what is left of the gradient.

        Args:
            shard: n rows.
            images: of them, `(n, C, H, W)` uint8; None to render them.

        Returns:
            `(n, 1, K)` float32 on the CPU, and the largest partial derivative.
        """
        rows = torch.arange(shard.start, shard.stop)
        if images is None:
            images = self.rows[shard.split].rendered(rows).images
        parts, left = [], 0.0
        pieces = torch.split(rows, AT_ONCE), torch.split(images, AT_ONCE)
        for some, of_them in zip(*pieces, strict=True):
            combined = self._combined(shard.split, some, of_them)
            parts.append(combined.logits.float().cpu())
            left = max(left, combined.gradient)
        return torch.cat(parts).unsqueeze(1), left

    def _combined(self, split: SplitName, rows: Tensor, images: Tensor) -> Combined:
        def probabilities(specialist: int, chosen: Tensor) -> Tensor:
            logits = raw_logits([self.specialists[specialist]], [images[chosen.cpu()]], self.device)
            return logits[:, 0].double().softmax(dim=1)

        number, view = self.rows[split].image_and_view(rows)
        labelled: Rows = getattr(self.source, split)
        logits = labelled.logits[number, view, self.generalist].to(self.device)
        beliefs = gather_beliefs(logits, self.groups.special, probabilities, self.top_n)
        return combine(beliefs)


def open_joint(task: Task, worker: Worker, inputs: Inputs) -> tuple[Joint, dict[str, str]]:
    """What the task works on, checked, and its parents' sha256."""
    options, run = options_of(task.recipe), task.run_folder
    source = open_transfer_set(transfer_set_folder(task.recipe, run))
    dataset = inputs.dataset(task.data, source.manifest)
    generalist = load_generalist(task.recipe, run, source.manifest)
    groups, sha256 = read_groups(run)
    specialists = load_specialists(run, groups, dataset.class_names, worker.device)
    parents = {
        "dataset": dataset.fingerprint,
        "transfer_set": source.manifest.sha256,
        "generalist": generalist.sha256,
        "clusters": sha256,
        **{f"specialist-{n:02d}": saved.sha256 for n, saved in enumerate(specialists)},
    }
    joint = Joint(
        source=source,
        rows=labelled_rows(source, dataset),
        generalist=options.generalist,
        groups=groups,
        specialists=specialists,
        top_n=min(options.top_n, len(dataset.class_names)),
        parents=parents,
        device=worker.device,
    )
    return joint, parents


def joint_plan(joint: Joint, accuracy: float) -> Plan:
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
    made_of = canonical_json({"parents": joint.parents, "top_n": joint.top_n})
    teacher = {
        "sha256": hashlib.sha256(made_of.encode()).hexdigest(),
        "model": model,
        "accuracy": accuracy,
        "class_names": list(plan.class_names),
    }
    # Joint logits are no linear image of one net's features, so a basis gains little there.
    dense = {"dtype": "float16", "code": None} if plan.is_compact else {}
    return Plan.model_validate({**plan.model_dump(mode="json"), **dense, "teachers": [teacher]})


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


def _make(task: Task, worker: Worker, joint: Joint) -> Generator[Event, None, Made]:
    labels = joint.source.test.labels
    with together(worker.device), one_thread(worker.device):
        # Each file states the accuracy of its teacher, so the test rows come before all others.
        mine = shards(joint.source.manifest.plan)[worker.rank :: worker.world]
        tested = {s: joint.logits(s) for s in mine if s.split == "test"}
        rights = [
            float((logits[:, 0].argmax(dim=1) == labels[s.start : s.stop]).sum())
            for s, (logits, _) in tested.items()
        ]
    right = summed(torch.tensor([sum(rights)], device=worker.device)).item()
    gradients = [left for _, left in tested.values()]

    def logits(shard: Shard, images: Iterable[Tensor]) -> Tensor:
        if shard in tested:
            return tested[shard][0]
        found, left = joint.logits(shard, torch.cat(list(images)))
        gradients.append(left)
        return found

    plan = joint_plan(joint, right / len(labels))
    manifest, written = yield from write_set(task.folder, plan, joint.rows, logits, worker)
    with together(worker.device):
        worth = {} if manifest is None else _worth(task, joint, max(gradients, default=0.0))
    return {**set_fields(manifest), **worth}, written


def _worth(task: Task, joint: Joint, left: float) -> dict[str, Any]:
    """What the specialists are worth on the test rows."""
    joined = open_transfer_set(task.folder, verify=False)
    combined = joined.test.logits[:, 0, 0]
    generalist = joint.source.test.logits[:, 0, joint.generalist]
    labels, groups = joint.source.test.labels, joint.groups
    before, after = generalist.argmax(dim=1), combined.argmax(dim=1)
    return {
        "generalist": summarize(tally(generalist, labels)),
        "combined": summarize(tally(combined, labels)),
        "coverage": by_coverage(labels, before, after, coverage(labels, groups)),
        "confusion_before": confusion(labels, before, groups.of_class),
        "confusion_after": confusion(labels, after, groups.of_class),
        "gradient": left,
        "teacher_sha256": joined.manifest.plan.teachers[0].sha256,
    }


COMBINE = Stage(
    name="combine",
    kind=JOINT_SET,
    commands=("specialize",),
    table="specialists",
    tasks=_tasks,
    title=lambda task: "specialists' transfer set",
    folder=lambda task: task.run_folder / "specialists" / "transfer_set",
    identity=_identity,
    parents=_parents,
    perform=partial(make, open_joint, _make),
    summary=set_line,
)
