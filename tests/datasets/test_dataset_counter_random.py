import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.datasets.counter_random import below, hashed, mix, uniform

INT64 = st.integers(-(2**63), 2**63 - 1)


def plain_mix(bits: int) -> int:
    """splitmix64 on Python's unbounded integers."""
    mask = 2**64 - 1
    bits = (bits + 0x9E3779B97F4A7C15) & mask
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
    return bits ^ (bits >> 31)


@settings(deadline=None)
@given(INT64)
def test_mix_equals_splitmix64_on_unbounded_integers(bits: int) -> None:
    assert int(mix(torch.tensor(bits))) % 2**64 == plain_mix(bits % 2**64)


def test_uniform_fills_the_unit_interval_evenly_along_each_argument() -> None:
    # 64 bins of 1,000 each: chi-square has 63 degrees of freedom, so 63 +- 11; 130 is 6 sigma.
    many, zero = torch.arange(64_000), torch.zeros(64_000, dtype=torch.int64)
    for numbers in (
        uniform(7, many, 1, 2),
        uniform(7, zero, many, 2),
        uniform(7, zero, 1, many),
        torch.cat([uniform(seed, many[:640], 1, 2) for seed in range(100)]),
    ):
        assert float(numbers.min()) >= 0
        assert float(numbers.max()) < 1
        counts = torch.histc(numbers, bins=64, min=0, max=1)
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 130
        assert abs(float(numbers.mean()) - 0.5) < 0.006  # 5 sigma of 0.2887 / sqrt(64,000)


def test_uniform_of_neighbours_is_uncorrelated() -> None:
    many = torch.arange(64_000)
    base = uniform(7, many, 1, 2)
    for other in (
        uniform(8, many, 1, 2),
        uniform(7, many + 1, 1, 2),
        uniform(7, many, 2, 2),
        uniform(7, many, 1, 3),
    ):
        correlation = torch.corrcoef(torch.stack([base, other]))[0, 1]
        assert abs(float(correlation)) < 0.02  # 5 sigma of 1 / sqrt(64,000)


def test_hashed_tells_apart_arguments_that_trade_places() -> None:
    one, two = torch.tensor([1]), torch.tensor([2])
    found = [hashed(1, one, 1, 2), hashed(1, one, 2, 1), hashed(1, two, 1, 1), hashed(2, one, 1, 1)]
    assert len({int(bits) for bits in found}) == 4


@settings(deadline=None)
@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_below_stays_below_its_limit(limit: int, seed: int) -> None:
    numbers = below(limit, seed, torch.arange(200), 1, 2)
    assert int(numbers.min()) >= 0
    assert int(numbers.max()) < limit


def test_below_reaches_every_integer_about_equally_often() -> None:
    counts = torch.bincount(below(5, 3, torch.arange(50_000), 1, 2), minlength=5)
    assert len(counts) == 5
    assert int((counts - 10_000).abs().max()) < 540  # 6 sigma of 89


def test_hashed_is_what_stored_views_were_made_with() -> None:
    # If this moves, every transfer set with views is void.
    bits = plain_mix(plain_mix(plain_mix(plain_mix(1) ^ 70_000) ^ 2) ^ 3)
    assert int(hashed(1, torch.tensor([70_000]), 2, 3)) % 2**64 == bits
