"""The thread of a tracker: whatever fails and whenever it ends, nothing is told twice or never."""

import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.tracking import sender
from kd_ray.tracking.sender import Sender
from kd_ray.tracking.tracker import Metrics, TrackedRun, Tracker

WHOLE = TrackedRun("0", "run", "tiny", "run", "tiny", {})
RUN = TrackedRun("1", "teacher/member-00", "teacher 0", "teacher", "tiny", {}, parent="0")
EPOCHS = 6


class Notebook:
    """A tracker in memory; calls whose numbers are `failing` fail, before or after their work."""

    def __init__(self, failing: Mapping[int, bool]) -> None:
        self.told: dict[str, dict[int, int]] = {}
        self.ended: dict[str, tuple[int, Metrics]] = {}
        self.opened = 0
        self._failing, self._calls = failing, count()

    def open(self, target: str, home: Path, say: Callable[[str], None]) -> Tracker:
        self.opened += 1
        return self

    def _do(self, work: Callable[[], None]) -> None:
        late = self._failing.get(next(self._calls))
        if late is not False:
            work()
        if late is not None:
            raise ConnectionError("no answer")

    def begin(self, run: TrackedRun) -> None:
        if run.parent is not None:
            assert run.parent in self.told
        self._do(lambda: self.told.setdefault(run.key, {}) and None)

    def log(self, run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        def work() -> None:
            there = self.told[run.key]
            there |= {epoch: there.get(epoch, 0) + 1 for epoch in epochs if epoch not in there}

        self._do(work)

    def end(self, run: TrackedRun, epoch: int, figures: Metrics, report: Path | None) -> None:
        self._do(lambda: self.ended.update({run.key: (epoch, figures)}))

    def close(self) -> None:
        pass


def live(book: Notebook, home: Path, epochs: int, *, ends: bool, waits_s: float = 0.0) -> list[str]:
    """A driver's life: epochs one by one; what it said."""
    told = Sender("notebook", "ours", book.open, home)
    for epoch in range(1, epochs + 1):
        told.put(RUN, {epoch: {"loss": 1.0 / epoch}}, whole=WHOLE)
        time.sleep(waits_s)
    if ends:
        told.put(RUN, {}, ({"errors": 3.0}, None), WHOLE)
        told.put(WHOLE, {}, ({}, None))
    told.close()
    return told.said()


@settings(max_examples=40)
@given(
    st.dictionaries(st.integers(0, 12), st.booleans(), max_size=6),
    st.lists(st.integers(0, EPOCHS), max_size=3),
)
def test_every_epoch_is_told_whatever_fails_and_a_tracker_that_has_all_is_left_alone(
    failing: dict[int, bool], lives: list[int]
):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sender, "RETRY_S", 0.001)
        book, home = Notebook(failing), Path(folder)
        for epochs in lives:
            assert len(live(book, home, epochs, ends=False)) <= 1
        while set(book.ended) != {"0", "1"}:
            live(book, home, EPOCHS, ends=True)
        assert book.told["1"] == dict.fromkeys(range(1, EPOCHS + 1), 1)
        assert book.ended["1"] == (EPOCHS, {"errors": 3.0})
        for _ in range(len(failing) + 1):  # a call that failed late has no mark yet
            live(book, home, EPOCHS, ends=True)
        opened = book.opened
        assert live(book, home, 0, ends=True) == []
        assert book.opened == opened


def test_a_sender_rests_until_it_took_no_more_than_its_share(tmp_path: Path):
    book = Notebook({})
    work, passes = book.log, list[float]()

    def busy(run: TrackedRun, epochs: Mapping[int, Metrics]) -> None:
        passes.append(time.thread_time())
        while time.thread_time() < passes[-1] + 0.004:
            pass
        work(run, epochs)

    book.log = busy  # type: ignore[method-assign]
    began = time.monotonic()
    live(book, tmp_path, 60, ends=False, waits_s=0.01)
    assert len(passes) <= 3 + (time.monotonic() - began) / 0.4  # the first two, and the last
    assert book.told["1"] == dict.fromkeys(range(1, 61), 1)
