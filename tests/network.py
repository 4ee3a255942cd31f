"""Networks of a test's own."""

import contextlib
import os
import urllib.request
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def proxy(port: int) -> Iterator[None]:
    """Sends every download to a port of this machine, so that no test uses the network."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{port}")
        urllib.request.install_opener(None)  # type: ignore[arg-type]  # it remembers proxies
        yield
        urllib.request.install_opener(None)  # type: ignore[arg-type]
