"""A small HTTP server in front of a real one, which passes everything on until it is told to answer badly."""

import contextlib
import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from rig.store import Server

WELL = "well"
SWALLOWED = "nothing, but does it"
BAD_ANSWERS: dict[str, tuple[int, str, bytes] | None] = {
    "500": (500, "text/plain", b"Internal Server Error"),
    "429": (429, "text/plain", b"Too Many Requests"),
    "HTML": (200, "text/html", b"<html><body>Please log in.</body></html>"),
    "{}": (200, "application/json", b"{}"),
    "nothing": None,
    SWALLOWED: None,
}
"""Status, type and content of each kind of bad answer; ``None`` stands for no answer at all."""
OLD = "as one of a release that is too old"
_ANSWERS = {**BAD_ANSWERS, OLD: (200, "text/plain", b"2.22.0")}


class Proxy:
    """Passes requests on to a server, until it is told to `answer` otherwise. A context manager.

    Args:
        server: the real one.

    Attributes:
        answers: how it answers now.
    """

    def __init__(self, server: Server) -> None:
        self.answers = WELL
        self.is_over = threading.Event()
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self, server.port))
        self.uri = f"http://127.0.0.1:{self._listener.server_port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)

    def answer(self, answers: str) -> None:
        """From now on give one of the `BAD_ANSWERS`, or answer ``OLD``, or ``WELL`` again."""
        self.answers = answers

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


def _handler_of(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
            """Say nothing."""

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self._handle
            raise AttributeError(name)

        def _handle(self) -> None:
            answers = proxy.answers
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            real = self._passed_on(body) if answers in {WELL, SWALLOWED} else None
            if answers == WELL and real is not None:
                self._answer(*real)
            elif (bad := _ANSWERS[answers]) is not None:
                self._answer(*bad)
            while answers == "nothing" and proxy.answers == answers and not proxy.is_over.wait(0.05):
                pass  # The connection stays open, so that the client waits.

        def _passed_on(self, body: bytes) -> tuple[int, str, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                return response.status, response.headers.get("Content-Type", ""), response.read()

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
