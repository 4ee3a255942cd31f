"""Large numbers as a person reads them."""

from collections.abc import Sequence


def bytes_shown(count: float) -> str:
    """A number of bytes as a person reads it; powers of 1000.

    >>> [bytes_shown(count) for count in (12, 49_358, 2_900_000)]
    ['12 bytes', '49.4 kB', '2.9 MB']
    """
    return _scaled(count, ("bytes", "kB", "MB", "GB", "TB"))


def count_shown(count: float) -> str:
    """A large number as a person reads it; powers of 1000.

    >>> [count_shown(count) for count in (12, 11_302_912, 2_900_000_000)]
    ['12', '11.3 M', '2.9 G']
    """
    return _scaled(count, ("", "k", "M", "G", "T")).rstrip()


def _scaled(count: float, units: Sequence[str]) -> str:
    if count < 1000:
        return f"{count:.0f} {units[0]}"
    for unit in units[1:-1]:
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} {units[-1]}"
