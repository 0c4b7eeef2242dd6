"""A file server on this machine, to fetch from and to write to."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves a directory, and writes to it what is put there.

    Attributes:
        asked: How often there was which request, such as `GET card.json`.
        refused: The status with which a request is answered instead.
    """

    asked: Counter[str]
    refused: dict[str, int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        if not self._refused():
            super().do_GET()

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        path = Path(self.translate_path(self.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refused(self) -> bool:
        request = f"{self.command} {self.path.rpartition('/')[2]}"
        self.server.asked[request] += 1
        status = self.server.refused.get(request)
        if status is not None:
            self.send_error(status)
        return status is not None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(directory: Path) -> Iterator[FileServer]:
    """A server of a directory, until the block ends."""
    server = FileServer(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))
    server.asked, server.refused = Counter(), {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
