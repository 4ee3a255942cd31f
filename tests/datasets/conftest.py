import os
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

Answers = dict[str, tuple[bytes, int]]
Serve = Callable[[Answers], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Stands between torchvision and the network, so that no test goes there.

    Answers by file name with a content and the length that it claims; else with "not found".
    """
    answers: Answers = {}

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, length = answers.get(self.path.rsplit("/", 1)[-1], (b"", 0))
            self.send_response(200 if length else 404)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{server.server_port}")
    urllib.request.install_opener(None)  # type: ignore[arg-type]  # it remembers the proxies
    yield answers.update
    urllib.request.install_opener(None)  # type: ignore[arg-type]
    server.shutdown()
    thread.join()
    server.server_close()
