"""A folder behind the few requests of S3 that reading takes, as fast as this machine answers.

    python served.py FOLDER

It prints its address. Keys are paths below the folder, the bucket among them.
"""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape


class Handler(BaseHTTPRequestHandler):
    """HEAD, GET of a range, and a listing that says only that the bucket is there."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        place = urlsplit(self.path)
        path = Path(sys.argv[1]) / unquote(place.path).lstrip("/")
        if path.is_dir():
            text = f"<ListBucketResult><Name>{escape(path.name)}</Name></ListBucketResult>"
            self.begin(200, len(text))
            self.wfile.write(text.encode())
        elif not path.is_file():
            self.begin(404, 0)
        else:
            size = path.stat().st_size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, stop = 0, size
            if wanted:
                start, stop = int(wanted[1]), min(size, int(wanted[2] or size - 1) + 1)
            self.begin(206 if wanted else 200, stop - start, f"bytes {start}-{stop - 1}/{size}")
            if body:
                with path.open("rb") as file:
                    self.wfile.flush()
                    self.connection.sendfile(file, start, stop - start)

    def begin(self, status: int, length: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Tue, 01 Dec 2026 00:00:00 GMT")
        if content_range and status == 206:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
