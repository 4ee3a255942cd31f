"""Recordings: what is read from files, what their rows are, and which of them go together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spoken import RATE, write_recordings, write_wave

from kd_ray.config import DataOptions
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.datasets.log_mel import BANDS, centred, log_mel, with_context
from kd_ray.datasets.recordings import Recordings, equal_parts, joined
from kd_ray.errors import DataError, UnknownNameError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of drawn recordings."""
    root = tmp_path_factory.mktemp("recordings")
    write_recordings(root)
    return root


def opened(root: Path, **options: Any) -> Dataset:
    return open_dataset(
        DataOptions.model_validate({"name": "spoken-digits", "root": str(root), **options})
    )


# Frames


def test_log_mel_of_a_louder_sound_differs_by_a_constant_that_centring_takes_away() -> None:
    sound = RNG.normal(size=2000)
    soft, loud = log_mel(0.1 * sound, RATE), log_mel(0.4 * sound, RATE)
    np.testing.assert_allclose(loud - soft, np.log(16), rtol=1e-3)
    np.testing.assert_allclose(centred(loud), centred(soft), atol=1e-3)


def test_log_mel_has_a_frame_each_10_ms_while_a_window_of_25_ms_fits() -> None:
    assert [len(log_mel(np.zeros(n), RATE)) for n in (0, 199, 200, 279, 280)] == [0, 0, 1, 1, 2]


def test_log_mel_of_a_higher_tone_peaks_in_a_higher_band() -> None:
    place = np.arange(RATE) / RATE
    peaks = [
        int(log_mel(np.sin(2 * np.pi * hertz * place), RATE).mean(axis=0).argmax())
        for hertz in (100, 200, 500, 1000, 2000, 3500)
    ]
    assert peaks == sorted(set(peaks))


def test_context_is_of_the_frame_in_its_place_and_of_silence_beyond_the_ends() -> None:
    frames = np.arange(12.0).reshape(6, 2) + 1
    around = with_context(frames, 2, 1)
    assert around.shape == (6, 2, 4)
    np.testing.assert_array_equal(around[:, :, 2], frames)
    np.testing.assert_array_equal(around[3], frames[1:5].T)
    assert (around[0, :, :2] == 1).all()
    assert (around[-1, :, -1] == 1).all()


def test_equal_parts_differ_by_one_frame_at_most_and_ascend() -> None:
    for frames in range(5, 60):
        states = equal_parts(frames, 5)
        counts = torch.bincount(states, minlength=5)
        assert int(counts.max() - counts.min()) <= 1
        assert torch.equal(states, states.sort().values)


def test_recordings_of_a_part_are_counted_anew() -> None:
    recordings = joined([2, 3, 1], 1)
    kept = recordings.part(torch.tensor([False, False, True, True, True, True]))
    assert kept.lengths.tolist() == [3, 1]
    assert kept.frames(torch.tensor([False, True])).tolist() == [False, False, False, True]
    words = Recordings(kept.numbers, 5).words(torch.tensor([7, 8, 9, -1]))
    assert words.tolist() == [1, -1]


# The dataset


def test_rows_are_frames_with_context_labelled_by_states(root: Path) -> None:
    dataset = opened(root)
    assert dataset.image_shape == (BANDS, 1, 26)
    assert dataset.train.images.dtype == torch.float16
    assert dataset.class_names[:6] == ("0-1", "0-2", "0-3", "0-4", "0-5", "1-1")
    assert dataset.test.recordings is not None
    assert dataset.train.recordings is not None
    assert dataset.test.recordings.count == 10 * 3 * 5
    assert dataset.train.recordings.count == 10 * 3 * 2
    words = dataset.test.recordings.words(dataset.test.labels)
    assert torch.bincount(words).tolist() == [15] * 10


def test_mean_and_deviation_are_those_of_each_band(root: Path) -> None:
    dataset = opened(root)
    values = dataset.train.images.double()
    torch.testing.assert_close(torch.tensor(dataset.mean).double(), values.mean((0, 2, 3)))
    deviation = values.std((0, 2, 3), unbiased=False)
    torch.testing.assert_close(torch.tensor(dataset.std).double(), deviation)


def test_validation_rows_are_whole_recordings_of_all_words(root: Path) -> None:
    whole, dataset = opened(root), opened(root, validation=200)
    both = dataset.train.recordings, dataset.validation.recordings
    assert both[0] is not None
    assert both[1] is not None
    assert not set(both[0].numbers.tolist()) & set(both[1].numbers.tolist())
    assert dataset.train.rows + dataset.validation.rows == whole.train.rows
    assert 200 <= dataset.validation.rows < 200 + 20
    words = both[1].words(dataset.validation.labels)
    assert int(torch.bincount(words, minlength=10).min()) >= 1


def test_a_fraction_is_of_whole_recordings(root: Path) -> None:
    whole, half = opened(root).train.recordings, opened(root, fraction=0.5).train.recordings
    assert whole is not None
    assert half is not None
    assert half.count == whole.count // 2
    lengths = dict(zip(whole.numbers.unique().tolist(), whole.lengths.tolist(), strict=True))
    for number, frames in zip(half.numbers.unique().tolist(), half.lengths.tolist(), strict=True):
        assert frames == lengths[number]


def test_speakers_are_kept_from_training(root: Path) -> None:
    kept = {"test": ["cy"], "validation": ["bob"]}
    dataset = opened(root, speakers=kept)
    counts = [
        split.recordings.count if split.recordings else 0
        for split in (dataset.train, dataset.validation, dataset.test)
    ]
    assert counts == [70, 70, 70]
    official = opened(root, speakers={"validation": ["bob"]})
    assert official.test.fingerprint == opened(root).test.fingerprint


def test_an_unknown_speaker_is_answered_with_the_known_ones(root: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"data\.speakers: unknown speaker 'bop'.*bob"):
        opened(root, speakers={"test": ["bop"]})


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"classes": ["0-1", "0-2"]}, "classes is for pictures"),
        ({"speakers": {"test": ["ann"], "validation": ["ann"]}}, "must be different speakers"),
        ({"speakers": {"validation": ["ann"]}, "validation": 10}, "leave one of the two out"),
        ({"speakers": {"test": ["ann"]}, "name": "digits"}, "speakers is for spoken-digits"),
    ],
)
def test_options_that_do_not_go_together_are_named(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        DataOptions.model_validate({"name": "spoken-digits", **options})


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("this is no recording")


def _cut(path: Path) -> None:
    write_wave(path, np.zeros(4000))
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("3_ann_9.wav", _nothing, "must be a recording in WAV format"),
        ("3_ann_9.wav", _text, "must be a recording in WAV format"),
        ("3_ann_9.wav", _cut, "must have the 4000 samples that its header says, but has 1478"),
        ("3_ann_9.wav", lambda p: write_wave(p, np.zeros(4000), rate=16000), "16000 samples a sec"),
        ("3_ann_9.wav", lambda p: write_wave(p, np.zeros(4000), channels=2), "has 2 channel"),
        ("3_ann_9.wav", lambda p: write_wave(p, np.zeros(4000), width=4), "32 bits"),
        ("3_ann_9.wav", lambda p: write_wave(p, []), "must have at least 5 frames"),
        ("3_ann_9.wav", lambda p: write_wave(p, np.zeros(150)), "must have at least 5 frames"),
        ("three.wav", lambda p: write_wave(p, np.zeros(4000)), "must be named DIGIT_SPEAKER_INDEX"),
    ],
)
def test_a_file_that_is_no_such_recording_is_named_in_one_sentence(
    root: Path, name: str, write: Callable[[Path], None], said: str
) -> None:
    path = root / "spoken-digits" / name
    write(path)
    try:
        with pytest.raises(DataError, match=said) as error:
            opened(root)
    finally:
        path.unlink()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_in_the_folder_are_left_alone(root: Path) -> None:
    note = root / "spoken-digits" / "README.md"
    before = opened(root).fingerprint
    note.write_text("digits")
    assert opened(root).fingerprint == before
    note.unlink()


def test_a_folder_without_recordings_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="KD_RAY_DATA"):
        opened(tmp_path)


def test_the_free_spoken_digit_dataset_has_its_official_test_rows() -> None:
    root = os.environ.get("KD_RAY_DATA")
    if root is None or not (Path(root) / "spoken-digits").is_dir():
        pytest.skip("KD_RAY_DATA has no folder spoken-digits")
    dataset = opened(Path(root))
    assert dataset.test.recordings is not None
    assert dataset.train.recordings is not None
    assert (dataset.test.recordings.count, dataset.train.recordings.count) == (300, 2700)
