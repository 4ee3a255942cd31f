"""The trackers, each behind one logging call for epochs; every one is an optional extra."""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from kd_ray.files import TEMPORARY
from kd_ray.tracking.tracker import FIGURES, MakeTracker, Metrics, TrackedRun
from kd_ray.tracking.weights_and_biases import WeightsAndBiases

MAKING_S = 1.0
"""Seconds after which a file without content is not being written any more."""


class TensorBoard:
    """Event files, a folder for each run; written anew whenever a run is gone on with."""

    def __init__(self, target: str, home: Path, say: Callable[[str], None]) -> None:
        """See `MakeTracker`."""
        from torch.utils.tensorboard import SummaryWriter

        self._home, self._new = home, SummaryWriter
        self._writers: dict[str, Any] = {}

    def begin(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        folder = self._home / run.place
        shutil.rmtree(folder, ignore_errors=True)
        self._writers[run.key] = writer = self._new(str(folder))
        lines = [f"    {key} = {json.dumps(value)}" for key, value in run.recipe.items()]
        writer.add_text("recipe", "\n".join(lines))

    def log(self, run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        """See `Tracker`."""
        writer = self._writers[run.key]
        for epoch, metrics in epochs.items():
            for name, value in metrics.items():
                writer.add_scalar(name, value, epoch)
        writer.flush()

    def end(self, run: TrackedRun, epoch: int, figures: Metrics, report: Path | None) -> None:
        """See `Tracker`."""
        writer = self._writers.pop(run.key)
        for name, value in figures.items():
            writer.add_scalar(FIGURES + name, value, epoch)
        if report is not None:
            writer.add_text("report", str(report))
        writer.close()

    def close(self) -> None:
        """See `Tracker`."""
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """A store of MLflow, where runs are found by a tag, and only what is missing is sent."""

    TAG = "kd_ray.run"
    MOST_METRICS, MOST_PARAMS, LONGEST = 1000, 100, 500
    STRANGE = re.compile(r"[^\w\-. /]")
    """What a key of a recipe may have in it, and one of MLflow's may not."""

    def __init__(self, target: str, home: Path, say: Callable[[str], None]) -> None:
        """See `MakeTracker`."""
        # What fails is tried again by whoever calls, and nobody else is to hear of the run.
        ours = {"HTTP_REQUEST_MAX_RETRIES": "1", "HTTP_REQUEST_TIMEOUT": "10"}
        ours |= {"DISABLE_TELEMETRY": "true", "ALLOW_FILE_STORE": "true"}
        ours |= {"SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
        for name, value in ours.items():
            os.environ.setdefault(f"MLFLOW_{name}", value)
        from mlflow import MlflowClient, entities

        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if urlsplit(target).scheme in ("", "file"):
            self._mend(Path(unquote(urlsplit(target).path)))
        scheme, _, file = target.partition(":///")
        path = Path(file).absolute() if scheme == "sqlite" and "?" not in file else None
        if path is not None and not path.exists():
            self._make_file(path, MlflowClient)
        self._client, self._entities = MlflowClient(target), entities
        # Pages lie beside a file of SQLite, and not wherever a run was started.
        self._pages = None if path is None else path.with_name("mlartifacts").as_uri()
        self._ids: dict[str, str] = {}
        self._there: dict[str, set[tuple[str, int]]] = {}

    @staticmethod
    def _mend(store: Path) -> None:
        """Removes the runs of a folder that have no content, as their maker was killed."""
        for about in (*store.glob("*/meta.yaml"), *store.glob("*/*/meta.yaml")):
            found = about.stat()
            if not found.st_size and time.time() - found.st_mtime > MAKING_S:
                shutil.rmtree(about.parent)

    @staticmethod
    def _make_file(path: Path, client: Callable[[str], Any]) -> None:
        """Makes a file with MLflow's tables, whole or not at all; half of them it cannot mend."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
            draft = Path(folder) / path.name
            client(f"sqlite:///{draft}").search_experiments()
            with suppress(FileExistsError):  # another process was as quick
                os.link(draft, path)

    def begin(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        name = run.group.partition("/")[0]
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            number = self._client.create_experiment(name, artifact_location=self._pages)
        else:
            number = experiment.experiment_id
        wanted = f"tags.`{self.TAG}` = '{run.key}'"
        found = next(iter(self._client.search_runs([number], wanted, max_results=1)), None)
        if found is None:
            tags = {self.TAG: run.key, "kd_ray.kind": run.kind, "kd_ray.group": run.group}
            if run.parent is not None:
                tags["mlflow.parentRunId"] = self._ids[run.parent]
            found = self._client.create_run(number, run_name=run.title, tags=tags)
        else:
            self._client.update_run(found.info.run_id, status="RUNNING")
        self._ids[run.key] = id = found.info.run_id
        histories = (self._client.get_metric_history(id, name) for name in found.data.metrics)
        self._there[run.key] = {(each.key, each.step) for some in histories for each in some}
        known, param = found.data.params, self._entities.Param
        told = {self.STRANGE.sub("_", key): value for key, value in run.recipe.items()}
        new = {key: value for key, value in told.items() if key not in known}
        params = [param(key, str(value)[: self.LONGEST]) for key, value in new.items()]
        for start in range(0, len(params), self.MOST_PARAMS):
            self._client.log_batch(id, params=params[start : start + self.MOST_PARAMS])

    def log(self, run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        """See `Tracker`."""
        there, now = self._there[run.key], int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, epoch)
            for epoch, some in epochs.items()
            for name, value in some.items()
            if (name, epoch) not in there
        ]
        for start in range(0, len(metrics), self.MOST_METRICS):
            part = metrics[start : start + self.MOST_METRICS]
            self._client.log_batch(self._ids[run.key], metrics=part)
            there |= {(each.key, each.step) for each in part}

    def end(self, run: TrackedRun, epoch: int, figures: Metrics, report: Path | None) -> None:
        """See `Tracker`."""
        self.log(run, {epoch: {FIGURES + name: value for name, value in figures.items()}})
        if report is not None:
            self._client.log_artifact(self._ids[run.key], str(report))
        self._client.set_terminated(self._ids[run.key])

    def close(self) -> None:
        """See `Tracker`."""


class Trackio:
    """A project of Trackio's SQLite files; rows have ids, so that none is there twice.

    Its `trackio.init` prints, and sends from a thread of its own, where failures are lost.
    """

    def __init__(self, target: str, home: Path, say: Callable[[str], None]) -> None:
        """See `MakeTracker`."""
        from trackio.sqlite_storage import SQLiteStorage

        SQLiteStorage.validate_project_name(target)
        self._storage, self._project = SQLiteStorage, target

    def begin(self, run: TrackedRun) -> None:
        """See `Tracker`."""

    def log(self, run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        """See `Tracker`."""
        self._write(run, epochs, {})

    def end(self, run: TrackedRun, epoch: int, figures: Metrics, report: Path | None) -> None:
        """See `Tracker`."""
        named: dict[str, Any] = {FIGURES + name: value for name, value in figures.items()}
        # The row of an epoch stays as it is; what the run is said to be is replaced.
        self._write(run, {epoch: named}, named | ({"report": str(report)} if report else {}))

    def _write(
        self, run: TrackedRun, epochs: Mapping[int, Metrics], more: Mapping[str, Any]
    ) -> None:
        self._storage.bulk_log(
            project=self._project,
            run=f"{run.group}: {run.title}",
            run_id=run.key,
            metrics_list=[dict(metrics) for metrics in epochs.values()],
            steps=list(epochs),
            log_ids=[f"{run.key}-{epoch}" for epoch in epochs],
            config={**run.recipe, **more, "_Group": run.group},
        )

    def close(self) -> None:
        """See `Tracker`."""


TRACKERS: Mapping[str, MakeTracker] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
