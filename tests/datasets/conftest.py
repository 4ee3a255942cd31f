import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from network import proxy

Answers = dict[str, tuple[bytes, int]]
Serve = Callable[[Answers], None]


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no folder of datasets."""
    monkeypatch.delenv("KD_RAY_DATA", raising=False)


@pytest.fixture
def silent() -> Iterator[None]:
    """A network that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as nobody, proxy(nobody.getsockname()[1]):
        yield


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A network that answers by file name, with a content and the length that it claims."""
    answers: Answers = {}

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, length = answers[self.path.rsplit("/", 1)[-1]]
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with proxy(server.server_port):
        yield answers.update
    server.shutdown()
    thread.join()
    server.server_close()
