"""Random numbers without a state: a number is a hash of what it is for.

The hash is integer arithmetic on int64 tensors, so a number depends neither on the device, nor on
the order or size of a batch, nor on how many workers there are.
"""

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 16,
# with the constants of Stafford's variant 13).
STEP = _signed(0x9E3779B97F4A7C15)
FIRST = _signed(0xBF58476D1CE4E5B9)
SECOND = _signed(0x94D049BB133111EB)


def _high(bits: Tensor, count: int) -> Tensor:
    """The `count` highest bits, as numbers from 0: torch shifts int64 with the sign, so mask it."""
    return (bits >> (64 - count)) & ((1 << count) - 1)


def mix(bits: Tensor) -> Tensor:
    """A permutation of the 64-bit integers in which every input bit moves every output bit.

    >>> mix(torch.tensor([0, 1])).tolist()
    [-2152535657050944081, -7995527694508729151]
    """
    bits = bits + STEP
    bits = (bits ^ _high(bits, 34)) * FIRST
    bits = (bits ^ _high(bits, 37)) * SECOND
    return bits ^ _high(bits, 33)


def hashed(seed: int, index: Tensor, view: int | Tensor, draw: int | Tensor) -> Tensor:
    """64 random bits for each (seed, index, view, draw); the four broadcast.

    Args:
        seed: chooses the stream.
        index: int64 row numbers.
        view: which view of the image.
        draw: which of the random numbers of that view.

    Returns:
        int64, all of whose values are equally likely.
    """
    bits = torch.tensor(seed, dtype=torch.int64)  # on the CPU; a scalar goes with every device
    for part in (index, view, draw):
        bits = mix(bits) ^ part
    return mix(bits)


def uniform(seed: int, index: Tensor, view: int | Tensor, draw: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24; arguments as for `hashed`.

    Returns:
        float32, in the shape that the arguments broadcast to.
    """
    return _high(hashed(seed, index, view, draw), 24).to(torch.float32) * 2.0**-24


def below(
    limit: int | Tensor, seed: int, index: Tensor, view: int | Tensor, draw: int | Tensor
) -> Tensor:
    """Uniform integers from 0 to `limit - 1` (below 2^31); other arguments as for `hashed`."""
    return (_high(hashed(seed, index, view, draw), 32) * limit) >> 32
