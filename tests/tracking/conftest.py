import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from told import (
    History,
    in_mlflow,
    in_tensorboard,
    in_trackio,
    in_wandb,
    mlflow_runs,
    wandb_records,
)

FIGURES = "figures/"
TITLES = {
    "run": "tiny",
    "teacher/member-00": "teacher 0",
    "student/distilled/seed-0": "student distilled, seed 0",
    "sweep/all": "tiny/sweep",
    **{f"sweep/trial-{number:04d}": f"trial {number}" for number in range(12)},
}


@dataclass(frozen=True)
class Read:
    """A tracker, how a recipe asks for it, and how what it was told is read.

    Attributes:
        override: of a recipe.
        histories: title -> metrics of each run, from the run folder.
        about: title -> recipe, group and other things that are no metrics of epochs.
    """

    name: str
    override: str
    histories: Callable[[Path], dict[str, History]]
    about: Callable[[Path], dict[str, dict[str, Any]]]

    def figures(
        self, found: dict[str, History], about: dict[str, dict[str, Any]], title: str
    ) -> dict[str, float]:
        """Of a run that is over, as metrics of its last epoch, or among what is said of it."""
        told = {name: values[-1][1] for name, values in found[title].items()} | about[title]
        return {n.removeprefix(FIGURES): v for n, v in told.items() if n.startswith(FIGURES)}


def _tensorboard(tmp_path: Path) -> Read:
    def histories(run: Path) -> dict[str, History]:
        found = in_tensorboard(run / "tracking" / "tensorboard")
        return {TITLES[place]: history for place, history in found.items()}

    def about(run: Path) -> dict[str, dict[str, Any]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray

        found = {}
        for place in in_tensorboard(run / "tracking" / "tensorboard"):
            events = EventAccumulator(str(run / "tracking" / "tensorboard" / place))
            events.Reload()
            (told,) = events.Tensors("recipe/text_summary")
            lines = make_ndarray(told.tensor_proto)[0].decode().splitlines()
            pairs = (line.strip().split(" = ", 1) for line in lines)
            found[TITLES[place]] = {key: json.loads(value) for key, value in pairs}
            found[TITLES[place]]["group"] = "tiny/sweep" if "sweep" in place else "tiny"
            if "report/text_summary" in events.Tags()["tensors"]:
                found[TITLES[place]]["report"] = True
        return found

    return Read("tensorboard", "tracking.tensorboard=true", histories, about)


def _mlflow(tmp_path: Path, uri: str = "") -> Read:
    uri = uri or f"file:{tmp_path}/mlruns"

    def about(run: Path) -> dict[str, dict[str, Any]]:
        from mlflow import MlflowClient

        client, runs = MlflowClient(uri), mlflow_runs(uri)
        assert {each.info.status for each in runs} == {"FINISHED"}
        keys = {each.info.run_id: each.data.tags["kd_ray.group"] for each in runs}
        return {
            each.info.run_name: {
                **{key: _value(value) for key, value in each.data.params.items()},
                "group": keys[each.data.tags.get("mlflow.parentRunId", each.info.run_id)],
                **{f.path.partition(".")[0]: True for f in client.list_artifacts(each.info.run_id)},
            }
            for each in runs
        }

    return Read("mlflow", f"tracking.mlflow={uri}", lambda run: in_mlflow(uri), about)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _wandb(tmp_path: Path) -> Read:
    def about(run: Path) -> dict[str, dict[str, Any]]:
        found = {}
        for file in (run / "tracking" / "wandb").glob("offline-run-*/*.wandb"):
            records = list(wandb_records(file))
            began = next(record.run for record in records if record.HasField("run"))
            told = {item.key: json.loads(item.value_json) for item in began.config.update}
            for record in records:
                for item in record.summary.update if record.HasField("summary") else []:
                    told[item.key] = json.loads(item.value_json)
            found[began.display_name] = told | {"group": began.run_group}
            if (file.parent / "files" / "report.html").is_file():
                found[began.display_name]["report"] = True
        return found

    def histories(run: Path) -> dict[str, History]:
        return in_wandb(run / "tracking" / "wandb")

    return Read("wandb", "tracking.wandb=ours", histories, about)


def _trackio(tmp_path: Path) -> Read:
    def about(run: Path) -> dict[str, dict[str, Any]]:
        from trackio.sqlite_storage import SQLiteStorage

        records = SQLiteStorage.get_run_records("ours")
        found = {}
        for name in [str(record["name"]) for record in records]:
            config = SQLiteStorage.get_run_config("ours", name) or {}
            found[name.partition(": ")[2]] = config | {"group": config["_Group"]}
        return found

    def histories(run: Path) -> dict[str, History]:
        return {name.partition(": ")[2]: told for name, told in in_trackio("ours").items()}

    return Read("trackio", "tracking.trackio=ours", histories, about)


def _sqlite(tmp_path: Path) -> Read:
    """A file that is there already, as it takes seconds to make."""
    from kd_ray.tracking.trackers import MLflow

    MLflow(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, print)
    return _mlflow(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


MAKE = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb, "trackio": _trackio}


@pytest.fixture(params=MAKE)
def tracker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Read]:
    """Each tracker that is installed, with nobody's credentials and a store of the test's own."""
    name = request.param.partition("-")[0]
    pytest.importorskip(name, exc_type=ImportError)
    made = (MAKE | {"mlflow-sqlite": _sqlite})[request.param](tmp_path)
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # to be read
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if name == "trackio":  # it reads the variable when it is imported
        import trackio.sqlite_storage

        monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    yield made
    if name == "wandb":  # else drivers that are forked from here later share its service
        import wandb

        wandb.teardown()
