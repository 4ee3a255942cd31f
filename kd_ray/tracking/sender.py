"""A thread for each tracker, so that no tracker holds a training up or fails it."""

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kd_ray.files import committed_file
from kd_ray.tracking.tracker import MakeTracker, Metrics, TrackedRun, Tracker

SHARE = 0.01
"""Of one CPU: the thread rests until what it computed is no more than that."""
LONGEST_REST_S, RETRY_S = 60.0, 30.0
CLOSE_S = 10.0
"""Seconds that a run waits in the end for a tracker that has not taken everything."""

End = tuple[Metrics, Path | None]
"""The figures of a run that is over, and a page about it."""


@dataclass
class _Book:
    """What is known of a run; what was sent of it is noted by the thread alone."""

    run: TrackedRun
    epochs: dict[int, Metrics] = field(default_factory=dict)
    end: End | None = None
    is_begun: bool = False
    sent: set[int] = field(default_factory=set)

    @property
    def is_behind(self) -> bool:
        return not self.is_begun or self.end is not None or self.epochs.keys() > self.sent


class Sender:
    """Tells one tracker everything, in time.

    It keeps what it was given and tells the tracker what that lacks, so a tracker that failed is
    told again from the beginning. A run that a tracker has to its end leaves a mark in `marks`, and
    is not told again.
    """

    def __init__(self, name: str, target: str, make: MakeTracker, home: Path) -> None:
        """A tracker by its name, its value in `[tracking]`, and the folder `tracking`."""
        self.name = name
        self._target, self._make, self._home, self._marks = target, make, home, home / "done"
        self._books: dict[str, _Book] = {}
        self._said: deque[str] = deque()
        self._trouble: str | None = None
        self._news, self._closing = threading.Condition(), threading.Event()
        self._tracker: Tracker | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracking {name}", daemon=True)

    def put(
        self,
        run: TrackedRun,
        epochs: Mapping[int, Metrics],
        end: End | None = None,
        whole: TrackedRun | None = None,
    ) -> None:
        """Takes metrics of epochs, at the end figures and page, and the run of the group."""
        if end is not None and not self.lacks(run, end[0]):
            return
        with self._news:
            if whole is not None:
                self._books.setdefault(whole.key, _Book(whole))
            book = self._books.setdefault(run.key, _Book(run))
            book.epochs |= epochs
            book.end = end or book.end
            self._news.notify()
        if not self._thread.ident:
            self._thread.start()

    def lacks(self, run: TrackedRun, figures: Metrics) -> bool:
        """Whether the tracker may not have a run to its end with these figures."""
        return run.key in self._books or not self._mark(run, figures).is_file()

    def said(self) -> list[str]:
        """What a user should know by now and has not been told."""
        return [self._said.popleft() for _ in range(len(self._said))]

    def close(self) -> None:
        """Waits until the tracker has everything, but not for long."""
        if not self._thread.ident:
            return
        self._closing.set()
        with self._news:
            self._news.notify()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() and self._trouble is None:
            self._warn(f"has not taken everything within {CLOSE_S:.0f} s")

    def _mark(self, run: TrackedRun, figures: Metrics) -> Path:
        what = json.dumps([self._target, run.key, dict(figures)], sort_keys=True)
        return self._marks / f"{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:16]}"

    def _warn(self, trouble: str) -> None:
        self._trouble = trouble
        self._said.append(
            f"tracking.{self.name}: {self._target} {trouble}; training goes on, and what it lacks "
            "is sent when it answers, or when the same is run again"
        )

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closing.is_set() or self._behind())
            behind = self._behind()
            began = time.thread_time()
            try:
                is_new = self._tracker is None
                if is_new and behind:
                    home = self._home / self.name
                    self._tracker = self._make(self._target, home, self._said.append)
                for book in behind:
                    self._tell(book)
                if self._closing.is_set() and not self._behind():
                    break
            except Exception as error:
                if self._trouble is None:
                    self._warn(f"does not take what it is sent ({reason(error)})")
                if self._closing.is_set():
                    break
                self._start_over()
                self._closing.wait(RETRY_S)
                continue
            rest = 0.0 if is_new else (time.thread_time() - began) / SHARE
            self._closing.wait(min(rest, LONGEST_REST_S))
        self._start_over()

    def _behind(self) -> list[_Book]:
        with self._news:
            return [book for book in self._books.values() if book.is_behind]

    def _tell(self, book: _Book) -> None:
        assert self._tracker is not None
        if not book.is_begun:
            self._tracker.begin(book.run)
            book.is_begun = True
        with self._news:
            new = {epoch: book.epochs[epoch] for epoch in sorted(book.epochs.keys() - book.sent)}
            end = book.end
        if new:
            self._tracker.log(book.run, new)
            book.sent |= new.keys()
        if end is None:
            return
        self._tracker.end(book.run, max(book.epochs, default=0), *end)
        with committed_file(self._mark(book.run, end[0])) as draft:
            draft.touch()
        with self._news:
            del self._books[book.run.key]

    def _start_over(self) -> None:
        """Lets go of the tracker; a new one is told everything."""
        tracker, self._tracker = self._tracker, None
        with self._news:
            for book in self._books.values():
                book.is_begun, book.sent = False, set()
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:
                if self._trouble is None:
                    self._warn(f"does not take what it is sent ({reason(error)})")


def reason(error: Exception) -> str:
    """The first line of an error of a tracker's."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."
