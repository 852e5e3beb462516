"""One logging set-up: ours through structlog, libraries' through the standard library, same lines.

Customers' words never reach a log: call sites log names and numbers only, and an unexpected exception
is written as its type and the places it passed, without its message.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import structlog

from app.errors import ShopintentError

Format = Literal["auto", "json", "console"]


def configure(
    level: str = "info", log_format: Format = "auto", stream: TextIO | None = None
) -> None:
    """Send all logs to ``stream`` (standard error by default). May be called again."""
    stream = stream or sys.stderr
    lenient = cast(TextIO, _Lenient(stream))
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_words,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=lenient),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(lenient)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


class _Lenient:
    """A log that cannot be written, its reader gone or its disk full, must not stop an answer."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _without_words(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace ``exc_info`` by the exception's type and path through the code.

    An exception's message may quote a customer, so only our own errors keep theirs: they are written
    to hold none (see :mod:`app.errors`).
    """
    info = event.pop("exc_info", None)
    error = (
        info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    )
    if info is True:
        error = sys.exception()
    if error is not None:
        event["error"] = type(error).__name__
        if isinstance(error, ShopintentError):
            event["reason"] = str(error)
        event["at"] = _places(error)
    return event


def _places(error: BaseException) -> list[str]:
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places[-12:]
