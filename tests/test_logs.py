"""Logs: one JSON object a line, and no customer's words in any."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app import logs
from app.errors import InferenceFailed
from tests.conftest import Running


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """All logs of the process, as JSON, for one test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    logs.configure("debug", "json", written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_request_leaves_one_line(service: Running, stream: io.StringIO) -> None:
    """The access line has method, route template, status, duration and the request id."""
    response = service.classify("swordfish")
    service.client.get("/v1/swordfish")
    found = {line["request_id"]: line for line in lines(stream) if line["event"] == "request"}
    line = found[response.headers["x-request-id"]]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/classify", 200)
    assert line["duration_ms"] > 0
    assert {line["route"] for line in found.values()} == {"/v1/classify", "unmatched"}
    ours = [line for line in lines(stream) if not line.get("logger", "").startswith("http")]
    assert "swordfish" not in str(ours)  # the test's own HTTP client logs in this process too


def test_library_logs_are_json_too(stream: io.StringIO) -> None:
    """Standard-library records come out in the same shape, with their logger's name."""
    logging.getLogger("uvicorn.error").warning("something %s", "happened")
    (line,) = lines(stream)
    assert (line["event"], line["level"]) == ("something happened", "warning")
    assert line["logger"] == "uvicorn.error"


@pytest.mark.parametrize("logger", ["ours", "library"])
def test_exceptions_are_told_without_their_message(stream: io.StringIO, logger: str) -> None:
    """The type and the places are logged; the message, which may quote a customer, is not."""
    try:
        int("swordfish")
    except ValueError as error:
        if logger == "ours":
            structlog.get_logger().error("failed", exc_info=error)
        else:
            logging.getLogger("library").exception("failed")
    (line,) = lines(stream)
    assert line["error"] == "ValueError"
    assert any("test_logs.py" in place for place in line["at"])
    assert "swordfish" not in stream.getvalue()


def test_our_own_errors_keep_their_reason(stream: io.StringIO) -> None:
    """Errors of this service hold no message text by contract, so their reason is logged."""
    structlog.get_logger().warning("failed", exc_info=InferenceFailed("the device is gone"))
    (line,) = lines(stream)
    assert line["reason"] == "the device is gone"


def test_level_is_kept(stream: io.StringIO) -> None:
    """Below the chosen level nothing is written, ours or a library's."""
    logs.configure("warning", "json", stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    assert stream.getvalue() == ""


def test_lost_log_stops_nothing(stream: io.StringIO) -> None:
    """When the log's reader has gone, whoever logs goes on."""
    stream.close()
    structlog.get_logger().error("unheard")
    logging.getLogger("library").error("unheard")


def test_console_is_for_people(stream: io.StringIO) -> None:
    """The readable form is no JSON and has no colours where no terminal is."""
    logs.configure("info", "console", stream)
    structlog.get_logger().info("hello", model="storefront")
    assert "hello" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")
