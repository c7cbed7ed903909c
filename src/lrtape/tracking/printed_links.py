"""What MLflow prints when a run ends, ``View run ... at: http://user:password@...``, without the credentials."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast

from lrtape.tracking.uri import has_user, without_user


@contextlib.contextmanager
def masked_links(uri: str) -> Iterator[None]:
    """Around whatever ends a run, where the URI of its store holds a user: mlflow (3.17) prints it as it is."""
    if not has_user(uri):
        yield
        return
    with contextlib.redirect_stdout(cast(Any, _Masked(sys.stdout, uri.rstrip("/")))):
        yield


class _Masked:
    """Like a stream, but for the URI; everything else of it is that stream's own."""

    def __init__(self, stream: Any, uri: str) -> None:
        self._stream = stream
        self._uri = uri

    def write(self, text: str) -> int:
        self._stream.write(text.replace(self._uri, without_user(self._uri)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
