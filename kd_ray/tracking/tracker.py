"""What is told, and to whom: a run of a tracker, and what a tracker must be able to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Metrics = Mapping[str, float]
FIGURES = "figures/"
"""Before the names of figures, which are of the test split, or of the whole training."""


@dataclass(frozen=True)
class TrackedRun:
    """One run of a tracker: a training, the trial of a sweep, or all of a run folder.

    Attributes:
        key: hex digits that no other run has, the same whenever this one is gone on with.
        place: where it lies below the run folder, with slashes.
        title: what a person calls it.
        kind: of artefact.
        group: runs that belong together.
        recipe: dotted key -> value.
        parent: key of the run that stands for all of the group; None of that one.
    """

    key: str
    place: str
    title: str
    kind: str
    group: str
    recipe: Mapping[str, Any]
    parent: str | None = None


class Tracker(Protocol):
    """A tracker; one thread calls it, and whatever it raises is a failure of the tracker's.

    Every call may come again, after a failure or in another process, and changes nothing then.
    """

    def begin(self, run: TrackedRun) -> None:
        """Opens a run, new or as it was left; its group's is open before it."""

    def log(self, run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        """Notes the metrics of epochs; those that the tracker has already are left out."""

    def end(self, run: TrackedRun, epoch: int, figures: Metrics, report: Path | None) -> None:
        """Notes the figures after the last epoch, and a page, and closes the run."""

    def close(self) -> None:
        """Lets go of everything; runs that are open may be gone on with later."""


MakeTracker = Callable[[str, Path, Callable[[str], None]], Tracker]
"""From the value in `[tracking]`, a folder of its own, and where to put what a user should know."""
