"""The experiment with losses on tiny digits: each loss searched alike, winners on all seeds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_file

from kd_ray.cli.studies import study_with_display
from kd_ray.errors import ConfigError, UnknownNameError
from kd_ray.result import Result, read_result
from kd_ray.studies.losses import LOSSES, LOSSES_QUICK, PUBLISHED, LossScale, losses
from kd_ray.training.objectives import SOFT_TERMS, STANDARDIZED

TINY = (
    *("data.validation=100", "train.epochs=2", "train.seeds=[0, 1]"),
    *("resources.fuse=64", "student.model.dropout=[0.0, 0.0]"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[LossScale, Path]:
    """The finished study, and where its runs lie."""
    folder = tmp_path_factory.mktemp("losses")
    scale = LossScale("tiny-losses", {"mnist": (str(tiny_file(folder)), TINY)}, trials=3)
    study_with_display(losses(scale, runs=folder, local=True), str(folder))
    return scale, folder


def students(folder: Path, part: str, variant: str = "*") -> list[Result]:
    files = sorted((folder / "tiny-losses" / part).glob(f"student/{variant}/*/result.json"))
    return [result for file in files if (result := read_result(file.parent)) is not None]


def figures(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "tiny-losses" / "results.json").read_bytes())
    assert found["status"] == "finished"
    return {line["about"]: line for line in found["experiments"]["mnist"]["figures"]}


def test_every_loss_of_the_catalogue_is_compared() -> None:
    assert PUBLISHED.keys() == {*SOFT_TERMS, STANDARDIZED}
    for scale in (LOSSES, LOSSES_QUICK):
        assert scale.bases.keys() == {"mnist", "cifar10-jpeg"}


def test_every_loss_is_searched_at_the_same_rates_and_places_of_its_ranges(
    done: tuple[LossScale, Path],
) -> None:
    tried: dict[str, list[Result]] = {}
    for result in students(done[1], "mnist-search"):
        tried.setdefault(result.variant.rpartition("-")[0], []).append(result)
    assert tried.keys() == {"labels", *PUBLISHED}
    rates = {loss: [r.recipe["train"]["lr"] for r in some] for loss, some in tried.items()}
    assert all(found == rates["hinton"] and len({*found}) == 3 for found in rates.values())
    places = {}
    for loss, published in PUBLISHED.items():
        low, high = (math.log(end) for end in published.temperatures)
        warm = [r.recipe["objective"]["temperature"] for r in tried[loss]]
        assert warm[0] == published.temperature
        places[loss] = [(math.log(t) - low) / (high - low) for t in warm[1:]]
        assert places[loss] == pytest.approx(places["hinton"], abs=1e-3)
    assert len({*places["hinton"]}) == 2
    assert {r.seed for some in tried.values() for r in some} == {0}


def test_the_best_trial_on_the_validation_rows_is_trained_anew_with_all_seeds(
    done: tuple[LossScale, Path],
) -> None:
    for loss in PUBLISHED:
        trials = students(done[1], "mnist-search", f"{loss}-*")
        best = max(trials, key=lambda r: (r.history[-1]["accuracy"], -int(r.variant[-1])))
        is_published = best.variant == f"{loss}-0"
        anew = students(done[1], "mnist", f"{loss}-published" if is_published else loss)
        assert [result.seed for result in anew] == [0, 1]
        for result in anew:
            assert result.recipe["objective"] == best.recipe["objective"]
            assert result.recipe["train"]["lr"] == best.recipe["train"]["lr"]


def test_gains_are_over_the_plain_loss_seed_by_seed(done: tuple[LossScale, Path]) -> None:
    found = figures(done[1])
    for how in ("searched", "as published"):
        plain = found[f"hinton, {how}: right"]["values"]
        means = []
        for loss in PUBLISHED.keys() - {"hinton"}:
            own = found[f"{loss}, {how}: right"]["values"]
            gain = found[f"{loss}, {how}: gain over hinton"]
            assert gain["values"] == pytest.approx([a - b for a, b in zip(own, plain, strict=True)])
            assert gain["paper"] == PUBLISHED[loss].gain
            means.append(gain["mean"])
        whole = found[f"other losses, {how}: mean gain over hinton"]
        assert whole["mean"] == pytest.approx(sum(means) / len(means))


def test_a_second_time_nothing_is_trained_again(done: tuple[LossScale, Path]) -> None:
    scale, folder = done
    before = {p: p.stat().st_mtime_ns for p in folder.glob("tiny-losses/*/*/**/result.json")}
    study_with_display(losses(scale, runs=folder, local=True), str(folder))
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_both_data_lie_in_one_folder(tmp_path: Path) -> None:
    root = f'data.root="{tmp_path}"'
    study = losses(LOSSES, [root], runs=tmp_path, local=True)
    assert {part.name: part.run.recipe.data.root for part in study.parts} == {
        "cifar10-jpeg-search": str(tmp_path / "cifar10-jpeg"),
        "mnist-search": str(tmp_path),
    }


def test_what_tells_the_runs_apart_cannot_be_set(done: tuple[LossScale, Path]) -> None:
    for override in ("objective.temperature=3", "train.lr=0.1", "objective={}"):
        with pytest.raises(ConfigError, match="tells the experiments' runs apart"):
            losses(done[0], [override])
    with pytest.raises(UnknownNameError, match="unknown experiment 'mnits'; did you mean 'mnist'"):
        losses(done[0], only=["mnits"])
