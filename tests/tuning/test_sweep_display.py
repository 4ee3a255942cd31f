import io
import itertools
import re
from typing import Any

import pytest
from rich.console import Console

from kd_ray.cli.sweep_display import ROWS, SweepDisplay
from kd_ray.config import SweepOptions
from tuning.ledger import Point
from tuning.trial import TrialEpoch
from tuning.trials import SweepBegins, SweepEvent, TrialBegins, TrialOver, TrialReport

T, C, BITS, RATE = (
    "objective.temperature",
    "objective.soft_weight",
    "student.quantizer.weight_bits",
    "train.lr",
)
SPACE = {
    T: {"log_uniform": [1, 20]},
    C: {"log_uniform": [0.1, 10], "times": "T^2", "or_zero": True},
    BITS: {"choice": [1, 2]},
    RATE: {"uniform": [0.1, 0.2]},
}
BEGINS = SweepBegins(over=0, left=4, best=None)


class Screen:
    """A display that writes into memory, with seconds that pass when a test says so."""

    def __init__(self, terminal: bool = False, width: int = 100, **options: Any) -> None:
        self.now = 100.0
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=terminal, width=width, _environ={"TERM": "xterm"}
        )
        sweep = SweepOptions.model_validate({"space": SPACE, **options})
        self.display = SweepDisplay(self.console, sweep, lambda: self.now)

    def show(self, *events: SweepEvent, each_s: float = 0.0) -> None:
        for event in events:
            self.now += each_s
            self.display.show(event)

    @property
    def lines(self) -> list[str]:
        """What was written, without colours and cursor movements."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.file.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]

    @property
    def table(self) -> list[str]:
        """The live table as it was drawn last."""
        assert self.display._live is not None
        self.display._live.refresh()
        lines = self.lines
        last = max(at for at, line in enumerate(lines) if line.startswith("sweep: "))
        return lines[last:]


def begun(number: int, resumed: bool = False, **settings: Any) -> TrialBegins:
    given = {T: 4.0, C: "0.5*T^2", BITS: 2, RATE: 0.125} | settings
    return TrialBegins(Point(number, {}, given, resumed))


def report(number: int, epoch: int, **metrics: float) -> TrialReport:
    return TrialReport(number, TrialEpoch(epoch, 10, {"accuracy": 0.5, **metrics}))


def over(number: int, accuracy: float = 0.5, epochs: int = 10) -> TrialOver:
    return TrialOver(number, "finished", {"accuracy": accuracy}, epochs)


def stopped(number: int, accuracy: float = 0.5) -> TrialOver:
    return TrialOver(number, "stopped", {"accuracy": accuracy}, 3)


def failed(number: int) -> TrialOver:
    return TrialOver(number, "failed", {}, 2, "epoch 3: the loss must be finite, but is nan")


def trial(number: int, accuracy: float) -> list[SweepEvent]:
    return [begun(number), report(number, 1), over(number, accuracy)]


def test_lines_are_one_for_each_begin_and_each_end() -> None:
    screen = Screen()
    with screen.display:
        screen.show(BEGINS)
        screen.show(begun(0), *(report(0, epoch) for epoch in range(1, 11)))
        screen.show(over(0, 0.75), each_s=30.0)
        screen.show(begun(1, **{C: 0.0}), stopped(1, 0.5), each_s=15.0)
        screen.show(begun(2, **{RATE: 0.1}), failed(2))
    assert screen.lines == [
        "trial 0: T 4, c / T² 0.5, W bits 2, lr 0.125",
        "trial 0: finished after 10 epochs, accuracy 0.7500  (1 of 4, best accuracy 0.7500 in trial"
        " 0, remaining 1:30 min)",
        "trial 1: T 4, c / T² 0, W bits 2, lr 0.125",
        "trial 1: stopped after 3 epochs, accuracy 0.5000  (2 of 4, best accuracy 0.7500 in trial 0"
        ", remaining 1:00 min)",
        "trial 2: T 4, c / T² 0.5, W bits 2, lr 0.1",
        "trial 2: failed: epoch 3: the loss must be finite, but is nan  (3 of 4, best accuracy"
        " 0.7500 in trial 0, remaining 20.0 s)",
    ]


def test_lines_of_a_sweep_that_goes_on_say_from_where() -> None:
    screen = Screen()
    with screen.display:
        screen.show(SweepBegins(over=3, left=2, best=(1, 0.875)))
        screen.show(begun(3, resumed=True), over(3, 0.5), each_s=5.0)
    assert screen.lines[0] == (
        "sweep: goes on after 3 trials, 2 left, best accuracy 0.8750 in trial 1"
    )
    assert screen.lines[1].startswith("trial 3 goes on: T 4, ")
    assert "(4 of 5, best accuracy 0.8750 in trial 1, remaining 10.0 s)" in screen.lines[2]


def test_lines_of_a_trial_without_a_soft_term_leave_its_temperature_out() -> None:
    screen = Screen()
    with screen.display:
        screen.show(BEGINS, TrialBegins(Point(0, {}, {C: 0.0, BITS: 1})))
    assert screen.lines == ["trial 0: c / T² 0, W bits 1"]


def test_lines_say_when_no_trial_has_finished_yet() -> None:
    screen = Screen()
    with screen.display:
        screen.show(BEGINS, begun(0), stopped(0, 0.9), begun(1), failed(1))
    assert all("no trial finished yet" in line for line in screen.lines if "of 4" in line)
    assert sum("of 4" in line for line in screen.lines) == 2


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations([0.25, 0.5, 0.75])))
def test_the_best_so_far_is_the_best_of_those_that_finished(
    order: tuple[float, ...], terminal: bool
) -> None:
    screen = Screen(terminal)
    with screen.display:
        screen.show(BEGINS)
        for number, accuracy in enumerate(order):
            screen.show(*trial(number, accuracy))
        best = max(order)
        lines = screen.table[:1] if terminal else screen.lines[-1:]
        assert f"3 of 4, best accuracy {best:.4f} in trial {order.index(best)}" in lines[0]


def test_the_best_so_far_of_what_is_minimized_is_the_least() -> None:
    screen = Screen(metric="loss")
    with screen.display:
        screen.show(BEGINS)
        for number, loss in enumerate((0.5, 0.25, 0.75)):
            screen.show(begun(number), TrialOver(number, "finished", {"loss": loss}, 10))
    assert "best loss 0.2500 in trial 1" in screen.lines[-1]


def test_the_remaining_time_is_that_of_the_trials_of_this_driver() -> None:
    """Trials that an earlier driver finished took none of this one's time."""
    screen = Screen()
    with screen.display:
        screen.show(SweepBegins(over=10, left=5, best=None))
        screen.show(begun(10), over(10), each_s=1.0)
        assert "remaining 8.0 s" in screen.lines[-1]
        screen.show(begun(11), over(11), begun(12), over(12), begun(13), over(13))
        assert "remaining 0.5 s" in screen.lines[-1]
        screen.show(begun(14), over(14))
        assert "15 of 15" in screen.lines[-1]
        assert "remaining" not in screen.lines[-1]


def test_several_objectives_are_all_shown() -> None:
    screen = Screen(metric=["accuracy", "packed_bytes"])
    values = {"accuracy": 0.75, "packed_bytes": 49_358.0}
    with screen.display:
        screen.show(BEGINS, begun(0), report(0, 10), TrialOver(0, "finished", values, 10))
    assert "finished after 10 epochs, accuracy 0.7500, packed_bytes 49.4 kB  (" in screen.lines[-1]


def test_the_table_shows_what_runs_and_what_is_over() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(BEGINS, begun(0), report(0, 7), over(0, 0.75), begun(1), stopped(1, 0.25))
        screen.show(begun(2), failed(2), begun(3, **{T: 20.0}), report(3, 4, accuracy=0.625))
        shown = screen.table
    assert shown[0].startswith("sweep: 3 of 4, best accuracy 0.7500 in trial 0")
    assert shown[1].split() == [
        *("trial", "state", "T", "c", "/", "T²", "W", "bits", "lr", "epoch", "accuracy")
    ]
    rows = {line.split()[0]: line.split() for line in shown[3:]}
    assert rows["0"] == ["0", "finished", "4", "0.5", "2", "0.125", "7/10", "0.7500"]
    assert rows["1"][1] == "stopped"
    assert rows["2"][1] == "failed"
    assert rows["3"] == ["3", "running", "20", "0.5", "2", "0.125", "4/10", "0.6250"]


def test_the_table_tells_the_remaining_time() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(BEGINS)
        screen.show(*trial(0, 0.5), each_s=20.0)
        assert screen.table[0].endswith("remaining 3:00 min")


def test_the_remaining_time_is_known_before_any_of_some_trials_together_has_ended() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(BEGINS, begun(0), begun(1, resumed=True))
        screen.show(report(0, 1), report(1, 6), each_s=10.0)  # 0.2 of 4 are done, 3.3 left
        assert screen.table[0].endswith("remaining 5:30 min")


def test_the_table_prints_the_cause_of_a_failure_above_itself() -> None:
    screen = Screen(terminal=True, width=200)
    with screen.display:
        screen.show(BEGINS, begun(0), failed(0), begun(1), over(1))
    causes = [line for line in screen.lines if "the loss must be finite, but is nan" in line]
    assert len(causes) == 1
    assert causes[0].startswith("trial 0: failed: epoch 3: ")


def test_the_table_of_many_trials_keeps_those_that_run_and_the_latest() -> None:
    screen = Screen(terminal=True)
    trials = 5 * ROWS
    with screen.display:
        screen.show(SweepBegins(over=0, left=trials, best=None), begun(0), begun(1))
        for number in range(2, trials):
            screen.show(*trial(number, 0.5))
        numbers = [int(line.split()[0]) for line in screen.table[3:]]
    assert numbers == [*range(trials - ROWS + 2, trials), 0, 1]


def test_the_table_of_more_trials_than_fit_shows_no_more() -> None:
    screen = Screen(terminal=True)
    with screen.display:
        screen.show(SweepBegins(over=0, left=99, best=None))
        screen.show(*(begun(number) for number in range(2 * ROWS)))
        assert len(screen.table[3:]) == ROWS


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_table_on_a_narrow_terminal_does_not_crash(width: int) -> None:
    screen = Screen(terminal=True, width=width)
    with screen.display:
        screen.show(BEGINS, *trial(0, 0.5), begun(1), failed(1))
    assert any("trial" in line for line in screen.lines)


def test_the_table_is_taken_down_when_the_sweep_is_interrupted() -> None:
    screen = Screen(terminal=True)

    def interrupted() -> None:
        with screen.display:
            screen.show(BEGINS, begun(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown, hidden = (screen.file.getvalue().rfind(f"\x1b[?25{end}") for end in "hl")
    assert shown > hidden  # the cursor
    assert screen.file.getvalue().endswith("\x1b[2K")  # the line is cleared


@pytest.mark.parametrize("terminal", [False, True])
def test_a_finished_sweep_that_is_run_again_says_so_and_nothing_else(terminal: bool) -> None:
    screen = Screen(terminal)
    with screen.display:
        screen.show(SweepBegins(over=4, left=0, best=(2, 0.75)))
    assert screen.lines == [
        "sweep: goes on after 4 trials, 0 left, best accuracy 0.7500 in trial 2"
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_trial_that_is_handed_out_again_after_its_process_was_lost_is_counted_once(
    terminal: bool,
) -> None:
    screen = Screen(terminal)
    with screen.display:
        screen.show(BEGINS, begun(0), report(0, 3), begun(0, resumed=True), report(0, 4))
        screen.show(over(0, 0.75))
        line = screen.table[0] if terminal else screen.lines[-1]
    assert "1 of 4, best accuracy 0.7500 in trial 0" in line
    if not terminal:
        assert [line.split(":")[0] for line in screen.lines] == [
            *("trial 0", "trial 0 goes on", "trial 0")
        ]
