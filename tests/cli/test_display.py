import dataclasses
import io
import itertools
import re
import time
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from kd_ray.cli.display import Display
from kd_ray.cli.heartbeat import Heartbeat
from kd_ray.pipeline import open_recipe
from kd_ray.result import Result
from kd_ray.runs import STAGES, Event, Finished, ShardDone, Started, Task
from kd_ray.training.progress import Epoch, Step

RECIPE = open_recipe("quickstart")
STUDENT = Task(STAGES["distill"], RECIPE, run="run", variant="distilled", seed=1)
OTHER = dataclasses.replace(STUDENT, seed=2)
LABEL = Task(STAGES["label"], RECIPE, run="run")
TITLE = "student distilled, seed 1"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A display that writes into memory."""

    def __init__(self, terminal: bool = False, width: int = 100) -> None:
        self.clock = Clock()
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=terminal, width=width, _environ={"TERM": "xterm"}
        )
        self.display = Display(self.console, self.clock)

    def show(self, *events: Event, task: Task = STUDENT, each_s: float = 0.0) -> None:
        for event in events:
            self.clock.now += each_s
            self.display.show(task, event)

    @property
    def lines(self) -> list[str]:
        """What was written, without colours and cursor movements."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.file.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def progress(screen: Screen) -> Progress:
    """The bars as rich holds them."""
    view: Any = screen.display._view
    return view._progress


def epoch(number: int, seconds: float = 0.001) -> Epoch:
    metrics = {"train_loss": 1 / number, "train_accuracy": 0.5}
    return Epoch(number, metrics, seconds=seconds, images_per_s=1e4)


def shard(worker: int, done: int, of: int, *, existed: bool = False, rows: int = 100) -> ShardDone:
    return ShardDone(f"train-{worker}-{done}.parquet", rows, done, of, existed, worker)


def finished(existed: bool = False, **metrics: Any) -> Finished:
    figures = {"accuracy": 0.99, "errors": 1, "rows": 1000, "bytes_per_row": 27.5, **metrics}
    result = Result(stage="distill", name="run", title=TITLE, metrics=figures, seconds=7.0)
    return Finished(result, existed)


def epochs_shown(lines: list[str]) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.search(r"epoch (\d+)/", line))]


def test_lines_has_one_for_every_epoch_of_a_second_or_more() -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(5, 0))
        # The epochs' own seconds count; their events may come in a bunch.
        screen.show(*(epoch(number, seconds=1.0) for number in range(1, 6)), each_s=0.01)
        screen.show(finished())
    assert epochs_shown(screen.lines) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("each_s", [0.0001, 0.01, 0.3, 0.7])
def test_lines_of_short_epochs_come_once_a_second_with_the_first_and_the_last(
    each_s: float,
) -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(2000, 0))
        screen.show(*map(epoch, range(1, 2001)), each_s=each_s)
        screen.show(finished())
    shown = epochs_shown(screen.lines)
    assert shown[0] == 1
    assert shown[-1] == 2000
    assert shown == sorted(set(shown))
    passed = 2000 * each_s
    assert passed / 2 <= len(shown) <= passed + 2
    assert all((b - a) * each_s >= 1 - 1e-6 for a, b in itertools.pairwise(shown[:-1]))


def test_lines_shows_the_last_epoch_of_a_training_that_stops_early() -> None:
    for end in (finished(), None):  # its end, or Ctrl-C
        screen = Screen()
        with screen.display:
            screen.show(Started(100, 0), *map(epoch, range(1, 8)))
            if end:
                screen.show(end)
        assert epochs_shown(screen.lines) == [1, 7]


def test_lines_of_one_task_do_not_hold_back_another() -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(9, 0), epoch(1), epoch(2))
        screen.show(Started(9, 0), epoch(1), epoch(2), task=OTHER)
    assert epochs_shown(screen.lines) == [1, 1, 2, 2]


def test_lines_of_a_resumed_training_count_from_where_it_was() -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(60, 50), epoch(51, seconds=2.0), each_s=2.0)
    assert screen.lines[0] == f"{TITLE}: goes on after epoch 50 of 60"
    assert "epoch 51/60" in screen.lines[1]
    assert screen.lines[1].endswith("remaining 18.0 s")  # 9 epochs of the pace since epoch 50


def test_lines_of_a_replaced_worker_start_a_new_pace() -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(10, 0), epoch(1, 1.0), epoch(2, 1.0), each_s=1.0)
        screen.clock.now += 1000
        screen.show(Started(10, 2), epoch(3, 1.0), each_s=1.0)
    assert screen.lines[2] == f"{TITLE}: goes on after epoch 2 of 10"
    assert screen.lines[3].endswith("remaining 7.0 s")


@pytest.mark.parametrize("terminal", [False, True])
def test_display_says_once_what_was_found_finished(terminal: bool) -> None:
    screen = Screen(terminal)
    with screen.display:
        screen.show(finished(existed=True))
        screen.show(finished(existed=True))  # a group of workers that was restarted says so again
        screen.show(finished(existed=True), task=LABEL)
    said = [line for line in screen.lines if "was finished" in line]
    assert said == [
        f"{TITLE}: was finished, test accuracy 0.9900, 1 error",
        "transfer set: was finished, 1,000 rows, 27.5 bytes each",
    ]


def test_lines_of_labelling_add_up_the_workers() -> None:
    screen = Screen()
    with screen.display:
        screen.show(shard(1, 100, 400, existed=True), task=LABEL)  # it may come before Started
        screen.show(Started(0, 0), task=LABEL)
        screen.show(
            shard(0, 100, 500, existed=True),
            shard(1, 200, 400),
            shard(0, 200, 500),
            task=LABEL,
            each_s=2.0,
        )
    assert screen.lines == [
        "transfer set: train-1-100.parquet found  100/400 rows",
        "transfer set: train-0-100.parquet found  200/900 rows",
        "transfer set: train-1-200.parquet written  300/900 rows  25 rows/s  remaining 24.0 s",
        "transfer set: train-0-200.parquet written  400/900 rows  33 rows/s  remaining 15.0 s",
    ]


def test_lines_of_labelling_do_not_drown_in_shards() -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(0, 0), task=LABEL)
        screen.show(*(shard(0, 100 * n, 100_000) for n in range(1, 1001)), task=LABEL, each_s=0.001)
        screen.show(finished(), task=LABEL)
    assert len(screen.lines) <= 4
    assert "100/100,000 rows" in screen.lines[0]
    assert "100,000/100,000 rows" in screen.lines[-2]
    assert "remaining" not in screen.lines[-2]


def test_labelling_that_starts_again_never_counts_a_row_twice() -> None:
    screen = Screen()
    with screen.display:
        screen.show(Started(0, 0), task=LABEL)
        screen.show(shard(0, 100, 200), shard(1, 100, 200), task=LABEL, each_s=2.0)
        screen.show(Started(0, 0), task=LABEL)
        again = [shard(w, 100, 200, existed=True) for w in (0, 1)]
        screen.show(*again, shard(1, 200, 200), shard(0, 200, 200), task=LABEL, each_s=2.0)
    shown = [re.findall(r"([\d,]+)/([\d,]+) rows", line)[0] for line in screen.lines]
    assert shown == [("100", "200"), *[("200", "400")] * 3, ("300", "400"), ("400", "400")]


def test_bars_of_a_resumed_training_show_where_it_is() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(Started(60, 50))
        progress(screen).refresh()
        screen.show(Step(51, 3, 6, 1234.0))
        progress(screen).refresh()
        (bar,) = progress(screen).tasks
        assert bar.completed == 50.5
        screen.show(epoch(51))
        progress(screen).refresh()
    assert any("50/60" in line and "1,234 images/s" in line for line in screen.lines)
    assert any("51/60" in line and "loss 0.0196" in line for line in screen.lines)


def test_bars_of_a_replaced_worker_go_back_instead_of_doubling() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(Started(10, 0), *map(epoch, range(1, 6)), Started(10, 4))
        (bar,) = progress(screen).tasks
        assert (bar.completed, bar.total, bar.fields["count"]) == (4, 10, "4/10")
        screen.show(*map(epoch, range(5, 11)), finished())
        assert progress(screen).tasks == []
    assert sum("finished in 7.0 s" in line for line in screen.lines) == 1


def test_bars_of_labelling_add_up_the_workers() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(shard(1, 100, 400), task=LABEL)
        screen.show(Started(0, 0), task=LABEL)
        screen.show(shard(0, 300, 500), shard(1, 200, 400), task=LABEL, each_s=1.0)
        (bar,) = progress(screen).tasks
        assert (bar.completed, bar.total) == (500, 900)
        assert bar.fields["count"] == "500/900 rows"
        assert bar.fields["rate"] == "150 rows/s"


@pytest.mark.parametrize("width", [80, 100, 130])
def test_bars_fit_the_terminal_whole(width: int) -> None:
    screen = Screen(terminal=True, width=width)
    task = dataclasses.replace(STUDENT, variant="softened-labels", seed=10)
    with screen.display:
        screen.show(Started(200, 0), *map(epoch, range(1, 124)), task=task)
        progress(screen).refresh()
    line = next(line for line in reversed(screen.lines) if "123/200" in line)
    assert line.startswith("student softened-labels, seed 10 ━")
    assert "10,000 images/s" in line
    assert "…" not in line
    assert len(line) <= width
    assert ("loss" in line) == (width >= 100)
    assert ("train accuracy" in line) == (width >= 130)


def test_lines_of_a_long_epoch_say_how_far_it_is_every_half_minute():
    screen = Screen()
    with screen.display:
        screen.show(Started(2, 0))
        screen.show(*(Step(1, n, 200, 64.0) for n in range(1, 201)), each_s=0.5)
        screen.show(epoch(1, seconds=100.0))
    said = [line for line in screen.lines if "step" in line]
    assert said == [f"{TITLE}: epoch 1, step {n} of 200  64 images/s" for n in (60, 120, 180)]
    assert epochs_shown(screen.lines[-1:]) == [1]


def test_a_log_in_which_nothing_happens_says_that_work_goes_on_and_for_how_long():
    screen = Screen()
    heartbeat = Heartbeat(screen.console, screen.clock)
    heartbeat.start()
    heartbeat.note(TITLE)
    for _ in range(14):
        screen.clock.now += 5.0
        heartbeat.tick()
    screen.console.print("another line")
    screen.clock.now += 29.0
    heartbeat.tick()
    heartbeat.stop()
    assert screen.lines == [
        f"{TITLE}: still at work, 30.0 s without news",
        f"{TITLE}: still at work, 1:00 min without news",
        "another line",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_silent_log_is_broken_by_itself_and_a_terminal_is_left_alone(terminal: bool):
    screen = Screen(terminal)
    heartbeat = Heartbeat(screen.console, silence_s=0.01)
    heartbeat.start()
    deadline = time.monotonic() + (0.2 if terminal else 20.0)
    while not screen.lines and time.monotonic() < deadline:
        time.sleep(0.01)
    heartbeat.stop()
    assert bool(screen.lines) != terminal
    assert all(line.startswith("kd-ray: still at work") for line in screen.lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_dead_layer_is_warned_of_by_name_once_for_each_student(terminal: bool):
    screen = Screen(terminal, width=300)
    alive = {"on": 0.3, "most": 0.7, "levels": [0.7, 0.3]}
    dead = {"on": 0.0, "most": 1.0, "levels": [1.0, 0.0]}
    layers = {"block1.conv": alive, "block2.conv": dead}
    dying = [dataclasses.replace(epoch(number), layers=layers) for number in (1, 2)]
    for task in (STUDENT, OTHER):
        screen.show(Started(epochs=3, done=0), *dying, epoch(3), task=task)
    warnings = [line for line in screen.lines if "warning" in line]
    assert len(warnings) == 2
    assert all("layer block2.conv is dead" in line for line in warnings)
    assert TITLE in warnings[0]
    assert "block1" not in "".join(screen.lines)
