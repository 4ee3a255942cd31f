"""Log mel frames: a sound as a filterbank hears it, and frames with those around them.

Pure functions on arrays; nothing here knows files or words.
"""

from functools import cache
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

BANDS = 40
STEP_S, WINDOW_S = 0.010, 0.025
LOWEST_HZ = 60.0
"""Below it a telephone or a small microphone has hum, and no speech."""
POINTS = 512
"""Of the Fourier transform: the lowest bands are narrower than the bins of a shorter one."""
FAINTEST = 1e-10
"""The energy of silence, full scale being 1: one step of 16 bits is nearly 1e-9."""


def log_mel(samples: Array, rate: int) -> Array:
    """Natural logarithms of the energies of mel bands, in frames of 10 ms.

    As in the paper (section 4.1): 40 bands, windows of 25 ms. Bands are triangles of equal width
    on the mel scale, 2595 log10(1 + f / 700), from 60 Hz to half the rate.

    Args:
        samples: `(S,)` floats from -1 to 1.
        rate: samples in a second.

    Returns:
        `(F, BANDS)` float64, so that machines that add in other orders agree once it is rounded;
        no frames where there are fewer samples than a window has.
    """
    width, step = round(WINDOW_S * rate), round(STEP_S * rate)
    if len(samples) < width:
        return np.empty((0, BANDS))
    windows = np.lib.stride_tricks.sliding_window_view(samples, width)[::step]
    power = np.abs(np.fft.rfft(windows * np.hamming(width), POINTS)) ** 2 / width
    bands: Array = np.log(power @ _filters(rate) + FAINTEST)
    return bands


def centred(frames: Array) -> Array:
    """The frames of one sound, `(F, B)`, without its mean in each band.

    What a microphone, a room or the loudness of a voice does to all frames alike is gone (Atal
    1974: the mean of a cepstrum, of which this is the same before a linear map).
    """
    mean: Array = frames.mean(axis=0)
    return frames - mean


def with_context(frames: Array, before: int, after: int) -> Array:
    """Each frame with those around it; beyond an end there is silence, its faintest value.

    Args:
        frames: `(F, B)` of one sound, so that no context comes from another one.
        before: frames of context before the one that is named.
        after: frames after it.

    Returns:
        `(F, B, before + 1 + after)`, a view that must not be written into.
    """
    padded = np.pad(frames, ((before, after), (0, 0)), constant_values=frames.min())
    return np.lib.stride_tricks.sliding_window_view(padded, before + 1 + after, axis=0)


@cache
def _filters(rate: int) -> Array:
    """Weights of the bins in the bands, `(POINTS / 2 + 1, BANDS)`."""

    def mel(hertz: Any) -> Any:
        return 2595 * np.log10(1 + hertz / 700)

    edges = np.linspace(mel(LOWEST_HZ), mel(rate / 2), BANDS + 2)
    bins = mel(np.arange(POINTS // 2 + 1) * rate / POINTS)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: Array = np.maximum(np.minimum(rising, falling), 0.0)
    return filters
