"""Versions of the packages that a result depends on, as artefacts record them."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def versions() -> dict[str, str]:
    """The installed version of each package; looking them up costs milliseconds."""
    known = {}
    for package in ("kd-ray", "torch", "torchvision", "ray", "pyarrow", "numpy"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue  # --local runs without Ray installed
    return known
