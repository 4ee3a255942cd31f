"""Recordings that are drawn: tones of tenths of a second, named like spoken digits."""

import wave
from pathlib import Path
from typing import Any

import numpy as np

RATE = 8000
SPEAKERS = ("ann", "bob", "cy")


def write_wave(
    path: Path, samples: Any, rate: int = RATE, channels: int = 1, width: int = 2
) -> None:
    """A WAV file of 16-bit samples, whose header may say something else."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(np.asarray(samples, "<i2").tobytes())


def write_recordings(root: Path) -> None:
    """Ten digits by three speakers, seven recordings each: noisy tones of 100 to 160 ms."""
    folder, draw = root / "spoken-digits", np.random.default_rng(0)
    folder.mkdir()
    for digit in range(10):
        for speaker in SPEAKERS:
            for index in range(7):
                place = np.arange(round((0.1 + 0.01 * index) * RATE)) / RATE
                tone = np.sin(2 * np.pi * (300 + 250 * digit + 5 * index) * place)
                samples = 9000 * tone + 300 * draw.normal(size=len(place))
                write_wave(folder / f"{digit}_{speaker}_{index}.wav", samples)
