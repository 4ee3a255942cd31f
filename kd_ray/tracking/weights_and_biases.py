"""Weights & Biases: with credentials on its server, else in files that can be sent to it later."""

import netrc
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kd_ray.tracking.tracker import FIGURES, Metrics, TrackedRun


class WeightsAndBiases:
    """A project of Weights & Biases, offline where there are no credentials.

    A server drops epochs that go back, so that a run which is gone on with begins after its last;
    a run that is offline cannot be gone on with, and is written anew.
    """

    def __init__(self, target: str, home: Path, say: Callable[[str], None]) -> None:
        """See `MakeTracker`."""
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb, self._project, self._home = wandb, target, home
        self._runs: dict[str, Any] = {}
        self._mode: Any = os.environ.get("WANDB_MODE")
        if self._mode is None:
            self._mode = "online" if has_credentials() else "offline"
            if self._mode == "offline":
                say(
                    "tracking.wandb: there are no credentials (WANDB_API_KEY, or what `wandb "
                    "login` leaves), so runs are written offline; send them later with: wandb sync "
                    f"{home}/offline-run-*"
                )

    def begin(self, run: TrackedRun) -> None:
        """See `Tracker`."""
        for old in self._home.glob(f"offline-run-*-{run.key}"):
            shutil.rmtree(old, ignore_errors=True)
        self._home.mkdir(parents=True, exist_ok=True)
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            init_timeout=20,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._runs[run.key] = self._wandb.init(
            project=self._project,
            id=run.key,
            name=run.title,
            group=run.group,
            job_type=run.kind,
            config=dict(run.recipe),
            dir=str(self._home.parent),  # it makes a folder wandb there
            mode=self._mode,
            resume=None if self._mode == "offline" else "allow",
            reinit="create_new",
            settings=settings,
        )

    def log(self, run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        """See `Tracker`."""
        there = self._runs[run.key]
        for epoch, metrics in epochs.items():
            if epoch >= there.step:
                there.log(dict(metrics), step=epoch, commit=True)

    def end(self, run: TrackedRun, epoch: int, figures: Metrics, report: Path | None) -> None:
        """See `Tracker`."""
        there = self._runs.pop(run.key)
        there.summary.update({FIGURES + name: value for name, value in figures.items()})
        if report is not None:
            copy = shutil.copy(report, there.dir)
            there.save(copy, base_path=there.dir, policy="now")
        there.finish()

    def close(self) -> None:
        """See `Tracker`."""
        for run in self._runs.values():
            run.finish(exit_code=1)


def has_credentials() -> bool:
    """Whether Weights & Biases is told who somebody is, by the environment or by `.netrc`."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return known.authenticators(host) is not None
