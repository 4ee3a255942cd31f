"""The commands that the campaign tries, small enough to end in seconds, and what they make."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPE = """\
name = "tiny"

[data]
name = "digits"
fraction = 0.125

[teacher]
model = { name = "mlp", hidden = [16], dropout = [0.1, 0.2] }
train = { epochs = 4, batch_size = 64, lr = 0.01 }

[transfer_set]
shard_rows = 50
views = 2
augment = { shift = 1 }

[student]
model = { name = "mlp", hidden = [8], dropout = [0.1, 0.1] }

[train]
epochs = 4
batch_size = 64
lr = 0.01

[resources]
cpus_per_worker = 1

[sweep]
trials = 4
sampler = "random"
scheduler = "none"
hold_out = 0.2
enqueue = [
    { "train.lr" = 0.01 },
    { "train.lr" = 0.02 },
    { "train.lr" = 0.005 },
    { "train.lr" = 0.001 },
]
space = { "train.lr" = { log_uniform = [0.001, 0.03] } }
"""
SPECIALISTS = "specialists={ count = 2, classes_each = 5, train = { epochs = 3, lr = 0.01 } }"
PAPER = (
    *("data.name=digits", "data.fraction=0.25", "data.validation=0"),
    *("teacher.model={name='mlp',hidden=[16]}", "teacher.train.epochs=3", "train.epochs=2"),
    *("train.seeds=[0]", "resources.fuse=1"),  # as bits are compared
)
"""The paper's experiments on a few digits."""


@dataclass(frozen=True)
class Subject:
    """A command of the campaign.

    Attributes:
        name: after `--only`.
        words: before the recipe's path, which stands where `RECIPE` does.
        submitted: whether it is a job on a cluster, which has no other place to run.
    """

    name: str
    words: tuple[str, ...]
    submitted: bool = False

    def arguments(self, recipe: Path, runs: Path, where: Sequence[str]) -> list[str]:
        """Of `kd-ray`; `where` are options such as `--local`."""
        typed = [str(recipe) if word == "RECIPE" else word for word in self.words]
        options = [*typed, "--runs", str(runs)]
        return (
            ["cluster", "submit", "--wait", *where, "--", *options]
            if self.submitted
            else [*options, *where]
        )


def _paper() -> tuple[str, ...]:
    sets = [word for setting in PAPER for word in ("--set", setting)]
    return ("reproduce", "mnist", "--quick", "--only", "no-3s", "--only", "ensemble", *sets)


SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject("run", ("run", "RECIPE")),
        Subject("tune", ("tune", "run", "RECIPE")),
        Subject("views", ("views", "RECIPE", "--views", "1,2")),
        Subject("exercises", ("exercises", "RECIPE", "--temperatures", "1,4")),
        Subject("specialize", ("specialize", "RECIPE", "--set", SPECIALISTS)),
        Subject("reproduce", _paper()),
        Subject("submit", ("run", "RECIPE"), submitted=True),
    )
}
TIMES = ("seconds", "images_per_s", "seconds_per_batch")


def made(runs: Path) -> dict[str, Any]:
    """What two runs must agree on, bit for bit: weights, logits, figures and trials, by place."""
    from tuning import open_sweep

    found: dict[str, Any] = {}
    for file in sorted(runs.rglob("*.json")):
        place, content = str(file.parent.relative_to(runs)), json.loads(file.read_bytes())
        if file.name == "manifest.json":
            found[f"{place}: logits"] = content["files"]
        elif file.name == "result.json" and "weights_sha256" in content:
            found[f"{place}: weights"] = content["weights_sha256"]
            found[f"{place}: metrics"] = without_times(content["metrics"])
        elif file.name == "results.json":
            found[f"{place}: figures"] = without_times(content["experiments"])
    for file in runs.rglob("study.db"):
        for trial in open_sweep(file.parent.parent).trials:
            kept = (trial.state, trial.settings, trial.epochs, trial.values, dict(trial.history))
            found[f"trial {trial.number}"] = kept
    return found


def without_times(figures: Any) -> Any:
    """Figures without those that differ from run to run."""
    if isinstance(figures, dict):
        return {key: without_times(value) for key, value in figures.items() if key not in TIMES}
    return [without_times(value) for value in figures] if isinstance(figures, list) else figures
