import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import pytest
from tiny import tiny_table

from kd_ray.config import SweepOptions, parse_recipe
from tuning.optuna_plots import front_plot, history_plot, importance_plot, learning_plot
from tuning.outcome import Sweep, read_trials
from tuning.page import page
from tuning.plots import soft_share, temperature_plot, weight_plot, worth_seeing
from tuning.space import NO_SOFT_TERM, SOFT_WEIGHT, TEMPERATURE, distributions

pytestmark = pytest.mark.slow  # to draw so many pages takes seconds
WEIGHT_BITS = "student.quantizer.weight_bits"
ACTIVATION_BITS = "student.quantizer.activation_bits"
LR = {"train.lr": {"log_uniform": [0.001, 0.1]}}
T = {TEMPERATURE: {"log_uniform": [1, 100]}}
SHARE = {SOFT_WEIGHT: {"log_uniform": [0.01, 100], "times": "T^2"}}
SHARE_OR_ZERO = {SOFT_WEIGHT: {**SHARE[SOFT_WEIGHT], "or_zero": True}}
BITS = {WEIGHT_BITS: {"choice": [1, 2]}, ACTIVATION_BITS: {"choice": [4, 8]}}
SPACES = {
    "one rate": LR,
    "temperature": T,
    "temperature and weight": T | SHARE,
    "no soft term": T | SHARE_OR_ZERO | LR,
    "bits": T | SHARE_OR_ZERO | BITS,
    "a list": {"student.model.hidden": {"choice": [[8], [16]]}} | LR,
}
PLOTS = (
    FRONT_PLOT := "Pareto front",
    HISTORY_PLOT := "Trials in their order",
    LEARNING_PLOT := "Learning curves",
    IMPORTANCE_PLOT := "Importance of parameters",
    TEMPERATURE_PLOT := "Over the temperature",
    WEIGHT_PLOT := "Over the weight of the soft term",
)
EVIL = "<script>alert('1')</script> & \"$x^2$\" [red] {0} %s"
VOID = {"meta", "br", "hr"}


class Outline(HTMLParser):
    """Tags, ids, plots and text of a page; refuses a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.plots: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given[key] or "" for key in ("href", "src", "xlink:href") if key in given]
        self.plots += [given["aria-label"] or ""] if tag == "svg" else []
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def empty_sweep(space: Mapping[str, Any], **options: Any) -> Sweep:
    """A sweep of the tiny recipe over a space, before its first trial."""
    table = tiny_table("train.epochs=9") | {"sweep": {"space": space, **options}}
    table["student"]["quantizer"] = {"method": "dorefa", "weight_bits": 2, "activation_bits": 8}
    recipe = parse_recipe(table, "tiny")
    assert recipe.sweep is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=recipe.sweep.directions)
    return Sweep(Path("/runs/tiny/sweep"), recipe, study, [])


def with_trial(
    sweep: Sweep,
    parameters: Mapping[str, Any],
    values: Sequence[float] = (),
    state: str = "COMPLETE",
    history: Mapping[int, float] | None = None,
    **about: Any,
) -> Sweep:
    """The sweep with one trial more, which went through Optuna as those of the ledger do."""
    metrics = dict(zip(sweep.options.metrics, values, strict=False))
    seconds = {"seconds": 12.5} if state == "COMPLETE" else {}
    known = distributions(sweep.options)
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        params=dict(parameters),
        distributions={name: known[name] for name in parameters},
        values=list(values) if state == "COMPLETE" else None,
        intermediate_values=dict(history or {}),
        user_attrs={"epochs": max(history or {0: 0}), "metrics": metrics, **seconds, **about},
    )
    sweep.study.add_trial(trial)
    trials = read_trials(sweep.study, sweep.options)
    return Sweep(sweep.folder, sweep.recipe, sweep.study, trials, sweep.best)


def drawn(options: SweepOptions, numbers: random.Random) -> dict[str, Any]:
    """A random point of a space, as a sampler would suggest it."""
    point: dict[str, Any] = {}
    for name, values in distributions(options).items():
        if name in (SOFT_WEIGHT, TEMPERATURE) and point.get(NO_SOFT_TERM):
            continue
        if isinstance(values, optuna.distributions.CategoricalDistribution):
            point[name] = numbers.choice(values.choices)
        else:
            ends = math.log(values.low), math.log(values.high)
            point[name] = min(max(math.exp(numbers.uniform(*ends)), values.low), values.high)
    return point


def judged(sweep: Sweep) -> Sweep:
    """The sweep with figures on the test split for its best trials, as `best.json` has them."""
    best = [
        {
            "trial": trial.number,
            "settings": trial.settings,
            "validation": dict(trial.metrics),
            "test": {"accuracy": 0.9375, "errors": 1234.5},
            "epochs": trial.epochs,
            "seconds": trial.seconds,
        }
        for trial in sweep.front
    ]
    return Sweep(sweep.folder, sweep.recipe, sweep.study, sweep.trials, best)


def whole_sweep(space: Mapping[str, Any], trials: int = 14, seed: int = 0, **options: Any) -> Sweep:
    """A sweep whose trials finished, were stopped (one in five) or failed (one in seven)."""
    sweep = empty_sweep(space, **options)
    numbers = random.Random(seed)
    for number in range(trials):
        point = drawn(sweep.options, numbers)
        distance = abs(math.log(point.get(TEMPERATURE, 3.0) / 6)) + abs(
            math.log(point.get(SOFT_WEIGHT, 0.3))
        )
        accuracy = 0.97 - 0.01 * distance + 0.004 * point.get(WEIGHT_BITS, 2)
        accuracy -= 0.01 * abs(math.log(point.get("train.lr", 0.01) / 0.01))
        history = {e: accuracy - 0.3 / e + numbers.gauss(0, 0.001) for e in range(1, 10)}
        if number % 7 == 6:
            sweep = with_trial(sweep, point, state="FAIL", cause=f"LossError: {EVIL}")
        elif number % 5 == 4 and len(sweep.options.metrics) == 1:
            early = {epoch: history[epoch] for epoch in (1, 2, 3)}
            sweep = with_trial(sweep, point, [early[3]], "PRUNED", early)
        else:
            costs = [12_000.0 * point.get(WEIGHT_BITS, 2) + 500 * number, 3e6]
            values = [accuracy, *costs][: len(sweep.options.metrics)]
            several = len(sweep.options.metrics) > 1
            sweep = with_trial(sweep, point, values, history={} if several else history, epochs=9)
    return judged(sweep)


def outline(sweep: Sweep) -> Outline:
    return Outline(page(sweep))


def marks(svg: str, kind: str) -> int:
    """How many marks of a plot are filled with a colour; that of the legend is one of them."""
    return len(re.findall(rf'<use [^>]*style="fill: var\(--{kind}\)', svg))


def shares(svg: str, *names: str) -> list[float]:
    """What is written at the bars of a plot of importances; it has bars of these names."""
    assert all(f">{name}</text>" in svg for name in names)
    after_axes = svg[svg.rindex("-patch_") :]
    return [float(share) for share in re.findall(r">(?:&lt;)?(\d\.\d\d)</text>", after_axes)]


@pytest.mark.parametrize(
    ("space", "missing"),
    [
        ("one rate", {IMPORTANCE_PLOT, TEMPERATURE_PLOT, WEIGHT_PLOT}),
        ("temperature", {IMPORTANCE_PLOT, WEIGHT_PLOT}),
        ("temperature and weight", set()),
        ("no soft term", set()),
        ("bits", set()),
        ("a list", {TEMPERATURE_PLOT, WEIGHT_PLOT}),
    ],
)
def test_page_has_the_plots_of_its_space_and_no_others(space: str, missing: set[str]) -> None:
    plots = outline(whole_sweep(SPACES[space])).plots
    assert plots == [title for title in PLOTS if title not in missing | {FRONT_PLOT}]


@pytest.mark.parametrize("space", SPACES)
def test_page_shows_every_trial_and_what_was_searched(space: str) -> None:
    sweep = whole_sweep(SPACES[space])
    found = outline(sweep)
    assert found.tags["tr"] == len(sweep.trials) + len(sweep.options.space) + 1 + 3  # and headings
    assert all(key in found.text for key in sweep.options.space)
    for trial in sweep.trials:
        assert all(f"{value:.4f}" in found.text for value in trial.values)
    sentences = " ".join(found.text.split())
    assert "Sampler tpe, seed 0. Scheduler asha: from 3 epochs on" in sentences
    finished, stopped, failed = map(sweep.count, ("finished", "stopped", "failed"))
    assert (finished, stopped, failed) == (10, 2, 2)
    assert f"trials finished{finished}stopped early{stopped}failed{failed}" in found.text
    assert f"seconds of training{12.5 * finished:,.0f}" in found.text


def test_page_needs_nothing_but_its_own_file() -> None:
    text = page(whole_sweep(SPACES["bits"]))
    found = Outline(text)
    assert found.tags["script"] == found.tags["link"] == found.tags["img"] == 0
    assert found.links
    assert all(link.startswith("#") for link in found.links)
    addresses = set(re.findall(r"[a-z]+://[^\"\s<)]+", text))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "@import" not in text


@pytest.mark.parametrize("metric", ["accuracy", ["accuracy", "packed_bytes"]])
def test_page_has_no_id_twice_and_every_reference_in_it(metric: str | list[str]) -> None:
    text = page(whole_sweep(SPACES["bits"], metric=metric))
    found = Outline(text)
    assert len(found.ids) == len(set(found.ids))
    references = re.findall(r"url\(#([^)]+)\)", text)
    links = {link.removeprefix("#") for link in found.links}
    assert {*references, *links} <= set(found.ids)


def test_page_uses_only_colours_that_light_and_dark_both_have() -> None:
    text = page(whole_sweep(SPACES["bits"], metric=["accuracy", "packed_bytes"]))
    used = set(re.findall(r"var\((--[a-z-]+)\)", text))
    assert all(text.count(f"{name}: #") == 2 for name in used)
    assert "#01fe" not in text
    plots = "".join(re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]+", plots)


def test_page_escapes_the_cause_of_a_failure() -> None:
    sweep = with_trial(empty_sweep(LR), {"train.lr": 0.01}, state="FAIL", cause=EVIL)
    found = outline(sweep)
    assert found.tags["script"] == 0
    assert f"trial 0: {EVIL}" in found.text


def test_page_of_no_trial_says_so_and_shows_the_space() -> None:
    found = outline(empty_sweep(SPACES["bits"]))
    assert "No trial has finished." in found.text
    assert "trials finished0" in found.text
    assert "0.01 to 100, over the logarithm; or 0" in found.text
    assert "All trials" not in found.text
    assert found.plots == []


@pytest.mark.parametrize(
    ("state", "plots"),
    [
        ("COMPLETE", {HISTORY_PLOT, LEARNING_PLOT, TEMPERATURE_PLOT, WEIGHT_PLOT}),
        ("PRUNED", {LEARNING_PLOT}),
        ("RUNNING", {LEARNING_PLOT}),
        ("FAIL", set()),
    ],
)
def test_page_of_a_single_trial_shows_as_much_as_there_is(state: str, plots: set[str]) -> None:
    point = {TEMPERATURE: 4.0, SOFT_WEIGHT: 1.0}
    sweep = with_trial(empty_sweep(T | SHARE), point, [0.9], state, {1: 0.9})
    found = outline(sweep)
    assert set(found.plots) == plots
    assert ("No trial has finished." in found.text) == (state != "COMPLETE")
    assert ("running1" in found.text) == (state == "RUNNING")


def test_page_of_failed_trials_alone_names_every_cause() -> None:
    sweep = empty_sweep(LR)
    for number in range(3):
        sweep = with_trial(sweep, {"train.lr": 0.01}, state="FAIL", cause=f"cause {number}")
    found = outline(sweep)
    assert found.plots == []
    assert all(f"trial {number}: cause {number}" in found.text for number in range(3))


def test_page_of_a_loss_that_is_infinite_still_has_its_plots() -> None:
    sweep = empty_sweep(T | LR, metric="loss")
    for number, value in enumerate((0.5, math.inf, 0.4, 0.3, 0.6)):
        point = {TEMPERATURE: 2.0 + number, "train.lr": 0.01}
        sweep = with_trial(sweep, point, [value], history={1: math.nan, 2: value})
    found = outline(sweep)
    assert found.plots == [HISTORY_PLOT, LEARNING_PLOT, IMPORTANCE_PLOT, TEMPERATURE_PLOT]
    assert "of 4 finished trials." in found.text


def test_page_of_the_same_sweep_is_the_same_and_leaves_no_setting_behind() -> None:
    settings = dict(matplotlib.rcParams)
    sweep = whole_sweep(SPACES["bits"])
    assert page(sweep) == page(sweep) == page(whole_sweep(SPACES["bits"]))
    assert dict(matplotlib.rcParams) == settings


def test_best_table_has_validation_and_test_figures_of_the_winner() -> None:
    sweep = whole_sweep(SPACES["no soft term"])
    found = Outline(sweep._repr_html_())
    (winner,) = sweep.front
    assert found.tags["tr"] == 2
    assert f"{winner.values[0]:.4f}" in found.text
    assert "93.75" in found.text
    assert "1,234.5" in found.text
    assert "the test split was looked at for the best only" in outline(sweep).text


def test_best_table_without_figures_on_the_test_split_does_not_claim_any() -> None:
    sweep = with_trial(empty_sweep(LR), {"train.lr": 0.01}, [0.95], history={1: 0.95})
    assert Outline(sweep._repr_html_()).text.rstrip().endswith("--")
    assert "looked at" not in outline(sweep).text
    assert "No trial" in empty_sweep(LR)._repr_html_()
    assert "<table>" in sweep._repr_html_()


def test_pareto_front_is_a_table_and_a_plot_with_the_numbers_of_trials_that_none_beats() -> None:
    sweep = empty_sweep(LR, metric=["accuracy", "packed_bytes"])
    costs = [(0.90, 1000), (0.95, 3000), (0.97, 9000), (0.93, 5000), (0.80, 2000)]
    for values in costs:
        sweep = with_trial(sweep, {"train.lr": 0.01}, values)
    plot = front_plot(sweep)
    assert [trial.number for trial in sweep.front] == [2, 1, 0]
    assert Outline(sweep._repr_html_()).tags["tr"] == 4
    assert (marks(plot, "distilled"), marks(plot, "teacher")) == (3 + 1, 2 + 1)
    for number in range(5):
        assert (f">{number}</text>" in plot) == (number in (0, 1, 2))
    assert ">4.0 kB</text>" in plot
    assert outline(sweep).plots == [FRONT_PLOT, HISTORY_PLOT]  # several metrics have no history


def test_pareto_front_leaves_out_trials_that_lie_nowhere() -> None:
    sweep = empty_sweep(LR, metric=["loss", "packed_bytes"])
    for values in ((0.5, 3000), (math.inf, 1000), (0.4, 4000)):
        sweep = with_trial(sweep, {"train.lr": 0.01}, values)
    plot = front_plot(sweep)
    assert ">0</text>" in plot
    assert ">1</text>" not in plot


@pytest.mark.parametrize("metric", [["accuracy", "bit_operations"], ["bit_operations", "accuracy"]])
def test_pareto_front_has_the_cost_on_its_horizontal_axis(metric: list[str]) -> None:
    sweep = empty_sweep(LR, metric=metric)
    for values in ((0.9, 2e6), (0.95, 3e6)):
        ordered = values if metric[0] == "accuracy" else values[::-1]
        sweep = with_trial(sweep, {"train.lr": 0.01}, ordered)
    plot = front_plot(sweep)
    assert plot.index(">bit operations</text>") < plot.index(">validation accuracy</text>")
    assert ">2.0 M</text>" in plot


def test_history_has_a_mark_for_every_finished_trial_and_a_line_of_the_best_so_far() -> None:
    sweep = empty_sweep(LR, metric="loss")
    for value in (0.5, 0.7, 0.3, 0.4):
        sweep = with_trial(sweep, {"train.lr": 0.01}, [value])
    sweep = with_trial(sweep, {"train.lr": 0.01}, [0.6], "PRUNED", {1: 0.9, 2: 0.6})
    plot = history_plot(sweep)
    assert marks(plot, "teacher") == 4 + 1
    line = re.search(r'<path d="([^"]+)"[^>]*stroke: var\(--distilled\)', plot)
    assert line is not None
    heights = [float(point.split()[2]) for point in line[1].strip().splitlines()]
    assert len(set(heights)) == 2  # 0.5, then 0.3; the axis of an SVG points down
    assert heights == sorted(heights)


def test_worth_seeing_leaves_out_only_what_is_far_worse() -> None:
    good = [0.95, 0.96, 0.955, 0.952, 0.958]
    low, high = worth_seeing([*good, 0.1], rising=True)
    assert 0.9 < low < min(good)
    assert high > max(good)
    low, high = worth_seeing([-value for value in [*good, 0.1]], rising=False)
    assert -0.9 > high > -min(good)
    assert worth_seeing([0.1, 0.9], rising=True)[0] < 0.1


def test_learning_curves_show_the_best_in_a_colour_of_its_own() -> None:
    sweep = whole_sweep(LR)
    plot = learning_plot(sweep)
    lines = Counter(re.findall(r"<path d=[^>]*clip-path[^>]*stroke: var\(--([a-z]+)\)", plot))
    assert lines["distilled"] == 1
    assert lines["teacher"] == sweep.count("finished") - 1
    assert lines["labels"] == sweep.count("stopped")
    assert f"trial {sweep.front[0].number}, the best" in plot


def test_temperature_plot_leaves_out_trials_that_have_no_temperature() -> None:
    sweep = empty_sweep(T | SHARE_OR_ZERO)
    soft = {NO_SOFT_TERM: False, TEMPERATURE: 4.0, SOFT_WEIGHT: 2.0}
    for point, accuracy in ((soft, 0.9), ({NO_SOFT_TERM: True}, 0.8), (soft, 0.91)):
        sweep = with_trial(sweep, point, [accuracy])
    assert marks(temperature_plot(sweep), "distilled") == 2
    plot = weight_plot(sweep)
    assert marks(plot, "distilled") == 3
    assert "no soft" in plot
    assert [soft_share(sweep, trial) for trial in sweep.trials] == [2.0, 0.0, 2.0]


def test_weight_plot_without_a_zero_has_no_place_for_it() -> None:
    sweep = with_trial(empty_sweep(T | SHARE), {TEMPERATURE: 4.0, SOFT_WEIGHT: 2.0}, [0.9])
    assert "no soft" not in weight_plot(sweep)
    none = with_trial(empty_sweep(T | SHARE_OR_ZERO), {NO_SOFT_TERM: True}, [0.9])
    assert "no soft" in weight_plot(none)
    assert temperature_plot(none) == ""


def test_soft_share_divides_a_plain_weight_by_the_square_of_the_trials_temperature() -> None:
    plain = {SOFT_WEIGHT: {"log_uniform": [0.1, 1000]}}
    sweep = with_trial(empty_sweep(T | plain), {TEMPERATURE: 5.0, SOFT_WEIGHT: 50.0}, [0.9])
    assert soft_share(sweep, sweep.trials[0]) == pytest.approx(2.0)
    sweep = with_trial(empty_sweep(plain), {SOFT_WEIGHT: 32.0}, [0.9])  # T = 4 in the recipe
    assert soft_share(sweep, sweep.trials[0]) == pytest.approx(2.0)
    sweep = with_trial(empty_sweep(T), {TEMPERATURE: 5.0}, [0.9])  # c = T^2 in the recipe
    assert soft_share(sweep, sweep.trials[0]) == 1.0


def test_plots_over_the_objective_have_a_colour_for_every_combination_of_bits() -> None:
    sweep = empty_sweep(T | BITS)
    for weight, activation in ((1, 4), (2, 4), (1, 8), (2, 8)):
        point = {TEMPERATURE: 4.0, WEIGHT_BITS: weight, ACTIVATION_BITS: activation}
        sweep = with_trial(sweep, point, [0.9])
    plot = temperature_plot(sweep)
    for combination in ("W 1 A 4", "W 1 A 8", "W 2 A 4", "W 2 A 8"):
        assert f">{combination}</text>" in plot
    for kind in ("distilled", "labels", "smoothing", "softened-labels"):
        assert marks(plot, kind) == 1 + 1


def test_importances_of_a_conditional_space_are_of_the_trials_with_a_soft_term() -> None:
    sweep = whole_sweep(SPACES["no soft term"], trials=40)
    plot, note = importance_plot(sweep)
    assert len(shares(plot, "T", "c / T²", "lr")) == 3
    assert sum(shares(plot)) == pytest.approx(1, abs=0.02)
    soft = sum(t.state == "finished" and TEMPERATURE in t.settings for t in sweep.trials)
    assert f"of {soft} finished trials with a soft term" in note
    assert importance_plot(sweep) == (plot, note)
    assert len(sweep.study.get_trials()) == 40


def test_importances_measure_a_logarithmic_range_by_its_logarithm() -> None:
    wide = {"train.lr": {"log_uniform": [1e-6, 1]}, TEMPERATURE: {"uniform": [1, 2]}}
    sweep, numbers = empty_sweep(wide), random.Random(0)
    for _ in range(60):
        exponent, temperature = numbers.uniform(-6, 0), numbers.uniform(1, 2)
        point = {"train.lr": 10**exponent, TEMPERATURE: temperature}
        # Nearly all of the rates below 1e-3 lie in a thousandth of the plain range.
        sweep = with_trial(sweep, point, [0.9 * (exponent > -3) + 0.1 * temperature])
    plot, _ = importance_plot(sweep)
    assert max(shares(plot)) > 0.9
    assert plot.index(">lr</text>") > plot.index(">T</text>")  # from the bottom to the top


@pytest.mark.parametrize(
    ("space", "values", "reason"),
    [
        (T | LR, [0.9, 0.8, 0.7], "4 finished trials are needed, and there are 3."),
        (T | LR, [0.9] * 6, "all trials are equally good."),
        (T, [0.9, 0.8, 0.7, 0.6, 0.5], "only one was searched."),
    ],
)
def test_importances_that_say_nothing_are_left_out_with_the_reason(
    space: Mapping[str, Any], values: list[float], reason: str
) -> None:
    sweep = empty_sweep(space)
    for number, value in enumerate(values):
        point = {TEMPERATURE: 2.0 + number, "train.lr": 0.01 + 0.001 * number}
        sweep = with_trial(sweep, {name: point[name] for name in space}, [value])
    plot, note = importance_plot(sweep)
    assert plot == ""
    assert note.endswith(reason)
    found = outline(sweep)
    assert note in found.text
    assert IMPORTANCE_PLOT not in found.plots


def test_importances_of_several_metrics_are_of_the_first() -> None:
    sweep = whole_sweep(SPACES["bits"], trials=30, metric=["accuracy", "packed_bytes"])
    plot, note = importance_plot(sweep)
    assert "the variance of the validation accuracy" in note
    assert len(shares(plot, "T", "c / T²", "W bits", "A bits")) == 4
    assert plot.index(">W bits</text>") < plot.index(">c / T²</text>")  # and nearly all of bytes
