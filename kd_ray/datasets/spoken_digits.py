"""Spoken digits: recordings as log mel frames with context, each labelled with a state of its word.

The files are read with Python's own `wave`, so nothing is needed but NumPy.
"""

import re
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd_ray.catalog import suggestion
from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import DIGITS, Dataset, Split
from kd_ray.datasets.log_mel import BANDS, Array, centred, log_mel, with_context
from kd_ray.datasets.recordings import equal_parts, joined
from kd_ray.datasets.storage import data_root, readable
from kd_ray.errors import DataError, UnknownNameError

FOLDER = "spoken-digits"
RATE = 8000
STATES = 5
"""States of a word."""
BEFORE, AFTER = 13, 12
"""Frames of context: 26 in all, of which the 14th is named. Where a word's part ends is seen from
what follows, so the context is about even on both sides."""
TEST_INDICES = 5
"""Of each digit and speaker the recordings 0 to 4 are the official test rows."""
NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav", re.IGNORECASE)


@dataclass(frozen=True)
class Recording:
    """One file, by what its name says."""

    path: Path
    digit: int
    speaker: str
    index: int


def read_spoken_digits(options: DataOptions) -> Dataset:
    """The Free Spoken Digit Dataset (Jackson et al.): DIGIT_SPEAKER_INDEX.wav, 8 kHz, six speakers.

    A row is a frame of 10 ms with its context, `(BANDS, 1, 26)` float16: bands are channels, so
    that each has a mean and a deviation of its own. The mean of each recording's bands is taken
    away, and beyond its ends there is silence: nothing comes from another recording. A word's
    frames are in its five states by equal parts.

    Raises:
        DataError: no files, or one that is no such recording.
        UnknownNameError: `data.speakers` names nobody who is there.
    """
    there = _recordings(data_root(options) / FOLDER)
    speakers = sorted({recording.speaker for recording in there})
    held = options.speakers
    validation, test = (held.validation or [], held.test or []) if held else ([], [])
    for name in (*validation, *test):
        if name not in speakers:
            raise UnknownNameError(
                f"data.speakers: unknown speaker {name!r}; {suggestion(name, speakers)}"
            )

    def is_test(one: Recording) -> bool:
        return one.speaker in test if test else one.index < TEST_INDICES

    def is_validation(one: Recording) -> bool:
        return one.speaker in validation and not is_test(one)

    def split(name: str, belongs: Callable[[Recording], bool]) -> Split:
        return _split(name, [one for one in there if belongs(one)])

    class_names = tuple(f"{digit}-{state}" for digit in DIGITS for state in range(1, STATES + 1))
    return Dataset(
        options.name,
        class_names,
        train=split("train", lambda one: not is_test(one) and not is_validation(one)),
        validation=split("validation", is_validation),
        test=split("test", is_test),
    )


def read_wave(path: Path, rate: int) -> Array:
    """The samples of a recording, `(S,)` float64 from -1 to 1.

    Raises:
        DataError: it is none, or not one channel of 16 bits at this rate.
    """
    with (
        readable(path, "a recording in WAV format", "replace or remove it"),
        path.open("rb") as file,
        wave.open(file) as sound,
    ):
        form = sound.getnchannels(), 8 * sound.getsampwidth(), sound.getframerate()
        frames = sound.getnframes()
        content = sound.readframes(frames)
    if form != (1, 16, rate):
        raise DataError(
            f"{path}: must be of 1 channel, 16 bits and {rate} samples a second, but has {form[0]} "
            f"channel(s), {form[1]} bits and {form[2]} samples a second; convert or remove it"
        )
    if len(content) != 2 * frames:
        raise DataError(
            f"{path}: must have the {frames} samples that its header says, but has "
            f"{len(content) // 2}; fetch the file again"
        )
    return np.frombuffer(content, "<i2") / 2**15


def _recordings(folder: Path) -> list[Recording]:
    """All recordings of a folder by what their names say, ordered by digit, speaker and index."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() == ".wav"]
    except OSError:
        paths = []
    if not paths:
        raise DataError(
            f"{folder}: must hold recordings named DIGIT_SPEAKER_INDEX.wav, but has none; put "
            "those of the Free Spoken Digit Dataset there, or set data.root or KD_RAY_DATA to the "
            f"folder that has {FOLDER}"
        )
    found = []
    for path in paths:
        said = NAME.fullmatch(path.name)
        if said is None:
            raise DataError(
                f"{path}: must be named DIGIT_SPEAKER_INDEX.wav, such as 7_jackson_32.wav, but got "
                f"{path.name}; rename or remove it"
            )
        found.append(Recording(path, int(said[1]), said[2], int(said[3])))
    return sorted(found, key=lambda one: (one.digit, one.speaker, one.index, one.path.name))


def _split(name: str, some: Sequence[Recording]) -> Split:
    features: list[Array] = [np.empty((0, BANDS, BEFORE + 1 + AFTER), np.float16)]
    labels, lengths = [torch.empty(0, dtype=torch.int64)], []
    for one in some:
        frames = log_mel(read_wave(one.path, RATE), RATE)
        if len(frames) < STATES:
            raise DataError(
                f"{one.path}: must have at least {STATES} frames of 10 ms, one for each state of "
                f"its word, but has {len(frames)}; remove it"
            )
        frames = centred(frames).astype(np.float16)
        features.append(with_context(frames, BEFORE, AFTER))
        labels.append(one.digit * STATES + equal_parts(len(frames), STATES))
        lengths.append(len(frames))
    images = torch.from_numpy(np.concatenate(features))[:, :, None]
    return Split(name, images, torch.cat(labels), joined(lengths, STATES))
