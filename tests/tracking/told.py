"""What trackers have been told, read back as each tracker's own tools read it."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

History = dict[str, list[tuple[int, float]]]
"""Metric -> epochs and values, in the order in which they were told."""

BLOCK = 32 * 1024


def in_tensorboard(home: Path) -> dict[str, History]:
    """Place of each run -> its scalars, from the event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in sorted({file.parent for file in home.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        names = events.Tags()["scalars"]
        scalars = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}
        found[folder.relative_to(home).as_posix()] = scalars
    return found


def mlflow_runs(uri: str) -> list[Any]:
    """Every run in a store of MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def in_mlflow(uri: str) -> dict[str, History]:
    """Title of each run -> its metrics; two of one title are told apart by a number."""
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), dict[str, History]()
    for run in mlflow_runs(uri):
        history = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        _add(found, run.info.run_name, history)
    return found


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a run that was offline: a log of LevelDB's kind behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # too little for a header is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def in_wandb(home: Path) -> dict[str, History]:
    """Title of each run below a folder -> its metrics."""
    import json

    found: dict[str, History] = {}
    for file in sorted(home.glob("offline-run-*/*.wandb")):
        title, history = "", History()
        for record in wandb_records(file):
            if record.HasField("run"):
                title = record.run.display_name
            for item in record.history.item if record.HasField("history") else []:
                name = item.key or ".".join(item.nested_key)
                if not name.startswith("_"):
                    value = json.loads(item.value_json)
                    history.setdefault(name, []).append((record.history.step.num, value))
        _add(found, title, history)
    return found


def in_trackio(project: str) -> dict[str, History]:
    """Title of each run of a project -> its metrics."""
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[str, History] = {}
    for record in SQLiteStorage.get_run_records(project):
        history = History()
        for row in SQLiteStorage.get_logs(project, record["name"], run_id=record["id"]):
            step = row.pop("step")
            row.pop("timestamp")
            for name, value in row.items():
                history.setdefault(name, []).append((step, value))
        _add(found, str(record["name"]), history)
    return found


def _add(found: dict[str, History], title: str, history: History) -> None:
    number = sum(name.partition(" #")[0] == title for name in found)
    found[f"{title} #{number + 1}" if number else title] = history


def epochs_of(history: History, metric: str = "train_loss") -> list[int]:
    """The epochs of a metric, sorted, each as often as it was told."""
    return sorted(epoch for epoch, _ in history.get(metric, []))
