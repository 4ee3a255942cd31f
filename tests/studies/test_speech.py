"""The experiment with speech on recordings that are drawn: ten tones by three speakers."""

import json
from pathlib import Path
from typing import Any

import pytest
from spoken import write_recordings
from tiny import tiny_file
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.cli.studies import study_with_display
from kd_ray.errors import ConfigError, UnknownNameError
from kd_ray.result import Result, read_result
from kd_ray.studies.speech import SpeechScale, speech

TINY = (
    *("teacher.members=2", "teacher.train.epochs=2", "data.fraction=1.0", "data.validation=100"),
    *("teacher.model.dropout=[0.0, 0.0]", "student.model.dropout=[0.0, 0.0]", "train.epochs=1"),
    *("train.seeds=[0, 1]", "objective.temperature=2"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpeechScale, Path]:
    """The finished study, and where its runs lie."""
    folder = tmp_path_factory.mktemp("speech")
    write_recordings(folder)
    data = ('data.name="spoken-digits"', f'data.root="{folder}"')
    base = str(tiny_file(folder, *TINY, *data))
    scale = SpeechScale("tiny-speech", base, temperatures=(1.0, 4.0), few=0.3, speaker="cy")
    study_with_display(speech(scale, runs=folder, local=True), str(folder))
    return scale, folder


def values_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "tiny-speech" / "results.json").read_bytes())
    assert found["status"] == "finished"
    return {
        f"{name}: {line['about']}": line["values"]
        for name, experiment in found["experiments"].items()
        for line in experiment["figures"]
    }


def students(folder: Path, part: str, variant: str = "*") -> list[Result]:
    files = sorted((folder / "tiny-speech" / part).glob(f"student/{variant}/*/result.json"))
    return [result for file in files if (result := read_result(file.parent)) is not None]


def test_temperature_and_weight_are_those_of_the_best_validation_rows(
    done: tuple[SpeechScale, Path],
) -> None:
    found = values_of(done[1])
    for protocol in ("official", "new-speaker"):
        tried = students(done[1], f"{protocol}-search")
        assert {result.seed for result in tried} == {0}
        assert len(tried) == 4
        best = max(float(result.history[-1]["accuracy"]) for result in tried)
        chosen = found[f"{protocol}: T, chosen"], found[f"{protocol}: weight of the labels, chosen"]
        assert any(
            [result.recipe["objective"]["temperature"]] == chosen[0]
            and [result.recipe["objective"]["hard_weight"]] == chosen[1]
            for result in tried
            if result.history[-1]["accuracy"] == best
        )
        for result in students(done[1], protocol, "distilled"):
            assert [result.recipe["objective"]["temperature"]] == chosen[0]


def test_words_are_counted_for_nets_ensemble_and_students(done: tuple[SpeechScale, Path]) -> None:
    found = values_of(done[1])
    ten = [float(r.metrics["teacher_word_error_rate"]) for r in students(done[1], "official")]
    assert found["official: 2 nets averaged: words wrong"] == [100 * ten[0]]
    own = [float(r.metrics["word_error_rate"]) for r in students(done[1], "official", "distilled")]
    assert found["official: one net distilled: words wrong"] == [100 * rate for rate in own]
    assert len(found["official: one of the nets: words wrong"]) == 2


def test_the_new_speaker_is_in_no_training_row(done: tuple[SpeechScale, Path]) -> None:
    counts = {
        protocol: students(done[1], protocol)[0].metrics["rows"]
        for protocol in ("official", "new-speaker")
    }
    recipe = students(done[1], "new-speaker")[0].recipe
    assert recipe["data"]["speakers"]["test"] == ["cy"]
    assert counts["official"] != counts["new-speaker"]


def test_few_recordings_have_the_teachers_of_all(done: tuple[SpeechScale, Path]) -> None:
    folder = done[1] / "tiny-speech"
    taught = {path.parent.parent.name for path in folder.glob("*/teacher/member-00")}
    assert taught == {"official-search", "new-speaker-search"}
    few, everything = students(done[1], "3-percent"), students(done[1], "official")
    assert {r.variant for r in few} == {r.variant for r in everything} == {"labels", "distilled"}
    assert len(few) == len(everything) == 4


def test_a_second_time_nothing_is_trained_again(done: tuple[SpeechScale, Path]) -> None:
    scale, folder = done
    before = {p: p.stat().st_mtime_ns for p in folder.glob("tiny-speech/*/*/**/result.json")}
    study_with_display(speech(scale, runs=folder, local=True), str(folder))
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_keys_that_tell_the_runs_apart_cannot_be_set(done: tuple[SpeechScale, Path]) -> None:
    for override in ("objective.temperature=3", "data={}", "name=x"):
        with pytest.raises(ConfigError, match="tells the experiments' runs apart"):
            speech(done[0], [override])


def test_an_unknown_experiment_is_answered_with_the_known_ones(
    done: tuple[SpeechScale, Path],
) -> None:
    with pytest.raises(UnknownNameError, match="unknown experiment 'oficial'; did you mean 'off"):
        speech(done[0], only=["oficial"])


def test_a_file_that_is_no_recording_ends_the_command_in_a_sentence(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    (tmp_path / "spoken-digits" / "three.wav").write_bytes(b"")
    sets = ["--set", f"data.root={tmp_path}", "--runs", str(tmp_path / "runs"), "--local"]
    result = CliRunner().invoke(app, ["teach", "speech", *sets])
    assert result.exit_code == 2
    assert "must be named DIGIT_SPEAKER_INDEX.wav" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "transfer_set={views=2,augment={shift=1}}",
            "augment: turns, colors, enlarges, shifts",
        ),
        ("transfer_set.include_images=true", "transfer_set.include_images: stores pixels of 8 bi"),
    ],
)
def test_what_frames_of_recordings_have_not_is_refused_before_a_teacher_is_trained(
    tmp_path: Path, setting: str, said: str
) -> None:
    write_recordings(tmp_path)
    data = f"data={{name='spoken-digits',root='{tmp_path}',validation=100}}"
    sets = ["--set", data, "--set", setting, "--runs", str(tmp_path / "runs"), "--local"]
    result = CliRunner().invoke(app, ["run", "speech", *sets])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not list((tmp_path / "runs").rglob("epoch-*"))


def test_a_net_that_takes_frames_has_no_export(done: tuple[SpeechScale, Path]) -> None:
    student = done[1] / "tiny-speech" / "official" / "student" / "distilled" / "seed-0"
    result = CliRunner().invoke(app, ["export", str(student)])
    assert result.exit_code == 2
    assert "must take pictures of 8 bits to be exported" in " ".join(result.output.split())
