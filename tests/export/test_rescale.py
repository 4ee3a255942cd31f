import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd_ray.export.rescale import Rescale, float_rescale, integer_rescale, uniform_grid

bits = st.integers(1, 8)
bounds = st.integers(0, 5000)
factors = st.sampled_from([1, 8, 18, 42, 127])
uniform = st.tuples(st.floats(-3, 0), st.floats(-3, 3), st.floats(-3, 0))


def grid(k: int, numbers: tuple[float, float, float], bound: int) -> NDArray[np.int64]:
    """Thresholds of sums as folding makes them: of scale, bias and the distance of two levels."""
    scale, bias, step = 10.0 ** numbers[0], numbers[1], 10.0 ** numbers[2]
    floats = (np.arange(1, 2**k) - 0.5) * step
    return np.clip(np.ceil((floats - bias) / scale), -bound, bound + 1).astype(np.int64)[None]


def holds(found: Rescale, thresholds: NDArray[np.int64], factor: int, bound: int) -> bool:
    """Whether every sum has the code that counting its thresholds gives."""
    sums = np.arange(-bound, bound + 1)[:, None]
    wanted = (sums[:, :, None] >= thresholds).sum(2)
    return bool((np.clip(found.codes(factor * sums), 0, thresholds.shape[1]) == wanted).all())


@given(bits, uniform, factors, bounds)
def test_rescale_of_a_grid_gives_every_sum_its_code(
    k: int, numbers: tuple[float, float, float], factor: int, bound: int
):
    thresholds = grid(k, numbers, bound)
    found = integer_rescale(thresholds, np.array([factor]), bound)
    assert found is None or holds(found, thresholds, factor, bound)
    assert found is not None or factor < 18 or k > 5


@given(bits, uniform, bounds)
def test_rescale_in_floats_does_so_too(k: int, numbers: tuple[float, float, float], bound: int):
    thresholds = grid(k, numbers, bound)
    found = float_rescale(thresholds, bound)
    assert found is None or holds(found, thresholds, 1, bound)
    assert found is not None or k > 6


@given(st.integers(1, 3), st.data(), factors, st.integers(1, 60))
def test_thresholds_of_no_grid_have_a_right_rescale_or_none(
    k: int, data: st.DataObject, factor: int, bound: int
):
    values = st.lists(st.integers(-bound, bound + 1), min_size=2**k - 1, max_size=2**k - 1)
    thresholds = np.sort(np.array(data.draw(values)))[None]
    for found, times in (
        (integer_rescale(thresholds, np.array([factor]), bound), factor),
        (float_rescale(thresholds, bound), 1),
    ):
        assert found is None or holds(found, thresholds, times, bound)


def test_thresholds_of_no_grid_have_none():
    assert integer_rescale(np.array([[0, 1, 9]]), np.array([42]), 20) is None
    assert float_rescale(np.array([[0, 1, 9]]), 20) is None


def test_sums_that_32_bits_do_not_hold_have_none():
    assert integer_rescale(np.array([[0]]), np.array([127]), 2**25) is None
    far = np.array([[-(2**23)] * 255])  # all levels are always reached, which takes a large bias
    found = integer_rescale(far, np.array([1]), 2**23)
    assert found is None or found.codes(np.array([-(2**23)])) >= 255


@given(bits, st.floats(1e-3, 1e3), st.integers(0, 3))
def test_grid_of_float_thresholds_is_found(k: int, step: float, zero: int):
    levels = np.arange(1, 2**k) - 0.5 - zero
    if k == 1 and zero > 1:
        return
    found = uniform_grid((levels * step).astype(np.float32))
    assert found is not None
    scale, point = found
    assert int(point) == zero
    np.testing.assert_allclose(scale, step, rtol=1e-5)


def test_float_thresholds_without_a_code_for_zero_are_of_no_grid():
    assert uniform_grid(np.array([0.0], np.float32)) is None
    assert uniform_grid(np.array([-1.0, 0.0, 1.0], np.float32)) is None
    assert uniform_grid(np.array([0.5, 1.5, 3.5], np.float32)) is None
