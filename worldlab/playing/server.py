"""Serves the page and obeys it, on this machine alone."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import override

from worldlab.errors import UsageError
from worldlab.playing.messages import about, obey, present
from worldlab.playing.session import Session
from worldlab.runs import Json

PAGES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LARGEST = 32 * 2**20
"""Bytes of a request."""


class Server[S]:
    """An HTTP server; every request is answered by the one thread that made the session.

    A browser opens connections that it does not use, so each has a thread of its own; but a simulator draws only in the
    thread in which it was made.
    """

    def __init__(self, make: Callable[[], Session[S]], title: str, notes: Sequence[str], port: int) -> None:
        """Make the session and listen.

        Args:
            make: called once, in the thread that will answer.
            title: of the page.
            notes: what a person should know, a sentence each.
            port: 0 takes a free one.

        Raises:
            UsageError: the port is taken, or the session cannot begin.
        """
        self._worker = ThreadPoolExecutor(1)
        self._session = self._worker.submit(make).result()
        self._about = about(self._session, title, tuple(notes))
        handler = type("Handler", (_Handler,), {"answer": staticmethod(self._answer)})
        try:
            self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "ports are 0 to 65535"
            raise UsageError(f"could not listen on port {port}: {why}. Choose another --port.") from None
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/"

    def serve(self) -> None:
        """Answer until `close`, or an interrupt."""
        self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()
        self._worker.shutdown()

    def _answer(self, order: str, told: Mapping[str, object]) -> dict[str, Json]:
        if order == "about":
            return self._about | {"now": self._worker.submit(present, self._session).result()}
        return self._worker.submit(obey, self._session, order, told).result()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    answer: Callable[[str, Mapping[str, object]], dict[str, Json]]

    def do_GET(self) -> None:
        """A file of the page."""
        if self.path not in PAGES:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": f"there is nothing at {self.path}."})
            return
        file = Path(__file__).parent / PAGES[self.path]
        self._send(HTTPStatus.OK, _TYPES[file.suffix], file.read_bytes())

    def do_POST(self) -> None:
        """An order."""
        try:
            told = self._told()
            self._send_json(HTTPStatus.OK, self.answer(self.path.strip("/"), told))
        except UsageError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _told(self) -> Mapping[str, object]:
        """The body; a page of another site cannot send JSON here without being asked first."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in ("127.0.0.1", "localhost"):  # another site's name may have been pointed at this machine
            raise UsageError(f"orders go to 127.0.0.1; got them for '{host}'.")
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise UsageError("orders are JSON: send Content-Type: application/json.")
        size = self.headers.get("Content-Length") or "0"
        # By its length first: Python turns no more than some thousands of digits into a number.
        if not size.isdecimal() or len(size) > len(str(LARGEST)) or int(size) > LARGEST:
            raise UsageError(f"a request may have {LARGEST} bytes; got {size[:30]}.")
        try:
            told = json.loads(self.rfile.read(int(size)) or b"{}")
        except (ValueError, RecursionError):
            raise UsageError("the request is not valid JSON.") from None
        if not isinstance(told, dict):
            raise UsageError("the request must be a JSON object.")
        return told

    def _send_json(self, status: HTTPStatus, values: Mapping[str, Json]) -> None:
        self._send(status, "application/json", json.dumps(values).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line a step would bury everything else."""
