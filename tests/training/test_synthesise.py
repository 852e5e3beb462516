from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.domain import OUT_OF_SCOPE
from training import synthesise
from training.chat_endpoint import ATTEMPTS, ChatEndpoint, EndpointFailed
from training.examples import read_taxonomy
from training.synthesise import Seen, UnknownIntent, nearest, plan, read_journal, write_messages

Reply = Callable[[dict[str, Any]], tuple[int, object]]
WRITTEN = ["wheres parcel 77120", "has my order 5521 been sent yet", "track it for me pls"]


class FakeEndpoint(ThreadingHTTPServer):
    """An OpenAI-compatible server that writes :data:`WRITTEN` and reads each as order_status.

    Faults may be put before it: statuses that it answers first, or a whole other ``reply``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.faults: list[int] = []
        self.headers: dict[str, str] = {}
        self.reply: Reply = answer

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["Authorization"])
        status, content = (
            (self.server.faults.pop(0), "no") if self.server.faults else self.server.reply(body)
        )
        message = {"choices": [{"message": {"role": "assistant", "content": content}}]}
        payload = json.dumps(message).encode()
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Nothing: a test's output is its own."""


def is_reading(body: dict[str, Any]) -> bool:
    return "Which of these" in body["messages"][1]["content"]


def answer(body: dict[str, Any]) -> tuple[int, object]:
    if is_reading(body):
        return 200, json.dumps({"intent": "order_status"})
    return 200, json.dumps({"messages": WRITTEN})


def text_of(body: dict[str, Any]) -> str:
    return json.loads(body["messages"][1]["content"].splitlines()[0].removeprefix("Message: "))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    monkeypatch.setattr(synthesise, "_known_texts", lambda: ["where is my parcel"])
    with FakeEndpoint() as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
        thread.start()
        yield endpoint
        endpoint.shutdown()
        thread.join()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def chat(server: FakeEndpoint, pauses: list[float]) -> Iterator[ChatEndpoint]:
    with ChatEndpoint(server.address, "tiny", timeout=10.0, sleep=pauses.append) as endpoint:
        yield endpoint


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "messages.jsonl"


def rows(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


UNITS = plan(["order_status"], ("en",), per_intent=3, seed=1)


def test_the_plan_covers_what_was_asked_for():
    """Every intent and language, styles in turn, as many messages as asked for."""
    units = plan([], ("en", "hr"), per_intent=25, seed=1)
    assert sum(unit.count for unit in units) == len(read_taxonomy()) * 2 * 25
    assert len({unit.key for unit in units}) == len(units)
    more = plan([], ("en", "hr"), per_intent=60, seed=1)
    assert {unit.key for unit in units} <= {unit.key for unit in more}


@pytest.mark.parametrize(("intents", "languages"), [(["nonsense"], ("en",)), ([], ("fr",))])
def test_unknown_names_are_refused(intents: list[str], languages: tuple[str, ...]):
    """Before any request is made."""
    with pytest.raises(UnknownIntent, match=r"nonsense|fr"):
        plan(intents, languages, 1, 1)


def test_every_intent_has_neighbours_to_be_mistaken_for():
    """The second pass chooses among the intents that the taxonomy sets apart, at least four."""
    taxonomy = read_taxonomy()
    for intent in taxonomy:
        names = [option.name for option in nearest(intent, taxonomy)]
        assert names[0] == intent.name
        assert len(names) == len(set(names)) >= 4
    status = next(intent for intent in taxonomy if intent.name == "order_status")
    assert {"delivery_delay", "delivery_options"} <= {o.name for o in nearest(status, taxonomy)}


def test_messages_are_written_with_their_origin(chat: ChatEndpoint, out: Path):
    """Rows hold text, intent, language, style and the model that wrote them."""
    counts = write_messages(chat, UNITS, out)
    assert counts == {"kept": 3, "disagreed": 0}
    assert [row["text"] for row in rows(out)] == WRITTEN
    assert rows(out)[0] == {
        "text": WRITTEN[0],
        "intent": "order_status",
        "language": "en",
        "style": "fragment",
        "model": "tiny",
    }


def test_the_request_shows_definition_language_and_style(
    server: FakeEndpoint, chat: ChatEndpoint, out: Path
):
    """The writer is told what the taxonomy says, and asked for JSON after a schema."""
    write_messages(chat, plan(["order_status"], ("hr",), 3, 1), out)
    request = server.bodies[0]
    for words in ("Where an order is, tracking", "delivery_delay", "Croatian", "fragments"):
        assert words in request["messages"][1]["content"]
    assert request["response_format"]["schema"]["required"] == ["messages"]


def test_the_reader_sees_the_text_and_may_choose_out_of_scope(
    server: FakeEndpoint, chat: ChatEndpoint, out: Path
):
    """It is not told what the text was written for: the options come in another order each time."""
    write_messages(chat, UNITS, out)
    readings = [body for body in server.bodies if is_reading(body)]
    assert sorted(map(text_of, readings)) == sorted(WRITTEN)
    offered = [
        re.findall(r"^- (\w+):", body["messages"][1]["content"], re.MULTILINE) for body in readings
    ]
    assert all(names[-1] == OUT_OF_SCOPE and "order_status" in names for names in offered)
    assert len({tuple(names) for names in offered}) > 1


def test_disagreement_drops_the_row(server: FakeEndpoint, chat: ChatEndpoint, out: Path):
    """A message that its reader takes for something else, or for nothing, teaches nothing."""

    def disagree(body: dict[str, Any]) -> tuple[int, object]:
        if not is_reading(body):
            return answer(body)
        chosen = {WRITTEN[0]: '{"intent": "delivery_delay"}', WRITTEN[1]: "I think it is late"}
        return 200, chosen.get(text_of(body), '{"intent": "order_status"}')

    server.reply = disagree
    assert write_messages(chat, UNITS, out) == {"kept": 1, "disagreed": 2}
    assert [row["text"] for row in rows(out)] == WRITTEN[2:]


def test_known_and_repeated_messages_are_dropped(
    server: FakeEndpoint, chat: ChatEndpoint, out: Path
):
    """Exact, near, and near to a seed; and what is no message at all."""
    written = [
        "Where is my parcel??",
        "track order 11",
        "track order 12!",
        "order_status please",
        "hello [name], where is it",
        " \n ",
        "x" * 500,
        7,
    ]

    def reply(body: dict[str, Any]) -> tuple[int, object]:
        return answer(body) if is_reading(body) else (200, json.dumps({"messages": written}))

    server.reply = reply
    units = plan(["order_status"], ("en",), per_intent=8, seed=1)
    counts = write_messages(chat, units, out)
    assert counts == {"kept": 1, "duplicate": 2, "invalid": 5, "disagreed": 0}
    assert [row["text"] for row in rows(out)] == ["track order 11"]


@pytest.mark.parametrize(
    "bad", ["sure! here they are", '{"messages": [', '["a"]', '{"messages": "a"}', "{}", None, 5]
)
def test_a_malformed_answer_is_asked_again(
    server: FakeEndpoint, chat: ChatEndpoint, out: Path, bad: object
):
    """Once is a slip; the next answer counts."""
    given = iter([bad])
    server.reply = lambda body: (
        answer(body) if is_reading(body) else (200, next(given, answer(body)[1]))
    )
    counts = write_messages(chat, UNITS, out)
    assert counts == {"kept": 3, "malformed answers": 1, "disagreed": 0}


def test_a_model_that_never_answers_in_json_is_given_up(
    server: FakeEndpoint, chat: ChatEndpoint, out: Path
):
    """The run goes on and ends; the outcome tells."""
    server.reply = lambda _: (200, "no.")
    assert write_messages(chat, UNITS, out) == {"kept": 0, "malformed answers": 3, "disagreed": 0}
    assert rows(out) == []


def test_words_around_the_json_do_not_matter(server: FakeEndpoint, chat: ChatEndpoint, out: Path):
    """Chat models like to explain and to fence."""
    server.reply = lambda body: (200, f"Of course:\n```json\n{answer(body)[1]}\n```")
    assert write_messages(chat, UNITS, out)["kept"] == 3


def test_busy_servers_are_waited_for(
    server: FakeEndpoint, chat: ChatEndpoint, pauses: list[float], out: Path
):
    """429 and 5xx are tried again, with pauses that grow."""
    server.faults = [429, 500, 503]
    assert write_messages(chat, UNITS, out)["kept"] == 3
    assert len(pauses) == 3
    assert pauses[0] < pauses[1] < pauses[2]


def test_the_server_says_how_long_to_wait(
    server: FakeEndpoint, chat: ChatEndpoint, pauses: list[float], out: Path
):
    """Retry-After is obeyed, up to a bound."""
    server.faults, server.headers = [429, 429], {"Retry-After": "7"}
    write_messages(chat, UNITS, out)
    assert pauses == [7.0, 7.0]


def test_a_server_that_stays_broken_ends_the_run(
    server: FakeEndpoint, chat: ChatEndpoint, pauses: list[float], out: Path
):
    """After several attempts, with what it last said."""
    server.faults = [500] * 100
    with pytest.raises(EndpointFailed, match="status 500"):
        write_messages(chat, UNITS, out)
    assert len(pauses) == ATTEMPTS - 1


def test_a_wrong_key_is_not_tried_again(
    server: FakeEndpoint, chat: ChatEndpoint, pauses: list[float], out: Path
):
    """A refusal will not change by waiting."""
    server.faults = [401]
    with pytest.raises(EndpointFailed, match="401"):
        write_messages(chat, UNITS, out)
    assert pauses == []


def test_nobody_listening_ends_the_run(pauses: list[float], out: Path):
    """A wrong address is told after the attempts, as an error of ours."""
    with (
        ChatEndpoint("http://127.0.0.1:9/v1", "tiny", timeout=1.0, sleep=pauses.append) as chat,
        pytest.raises(EndpointFailed, match="ConnectError"),
    ):
        write_messages(chat, UNITS, out)


def test_a_server_without_json_mode_is_asked_in_words(
    server: FakeEndpoint, chat: ChatEndpoint, out: Path
):
    """The ways to ask for JSON are tried once, then no more."""
    server.reply = lambda body: (400, "what?") if "response_format" in body else answer(body)
    assert write_messages(chat, UNITS, out)["kept"] == 3
    kinds = [body["response_format"]["type"] for body in server.bodies if "response_format" in body]
    assert kinds == ["json_object", "json_schema"]


def test_the_key_travels_in_the_header_only(server: FakeEndpoint, tmp_path: Path):
    """And is nowhere in what is written."""
    with ChatEndpoint(server.address, "tiny", key="sk-secret") as chat:
        write_messages(chat, UNITS, tmp_path / "out.jsonl")
    assert set(server.keys) == {"Bearer sk-secret"}
    for path in tmp_path.iterdir():
        assert "sk-secret" not in path.read_text()


def test_a_stopped_run_goes_on_where_it_was(server: FakeEndpoint, chat: ChatEndpoint, out: Path):
    """Finished units are not asked for again; what they gave is in the output all along."""
    units = plan(["order_status"], ("en", "es"), per_intent=3, seed=1)
    spanish = ["dónde anda mi paquete", "ya salió el pedido 55?", "rastreo porfa"]

    def reply(body: dict[str, Any]) -> tuple[int, object]:
        if "Spanish" in body["messages"][1]["content"]:
            return 200, json.dumps({"messages": spanish})
        return answer(body)

    server.reply = lambda body: (
        (403, "") if "Spanish" in body["messages"][1]["content"] else reply(body)
    )
    with pytest.raises(EndpointFailed):
        write_messages(chat, units, out)
    assert [row["text"] for row in rows(out)] == WRITTEN
    asked = len(server.bodies)
    server.reply = reply
    assert write_messages(chat, units, out) == {"kept": 6, "disagreed": 0}
    assert [row["text"] for row in rows(out)] == WRITTEN + spanish
    assert all("English" not in body["messages"][1]["content"] for body in server.bodies[asked:])
    asked = len(server.bodies)
    assert write_messages(chat, units, out)["kept"] == 6
    assert len(server.bodies) == asked


def test_a_run_killed_while_it_wrote_goes_on(server: FakeEndpoint, chat: ChatEndpoint, out: Path):
    """Half a line at the journal's end is taken back, and its unit done again."""
    write_messages(chat, UNITS, out)
    journal = out.with_name("messages.jsonl.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: len(whole) // 2])
    assert len(read_journal(journal)) == 1
    assert journal.read_bytes() == whole
    journal.write_bytes(whole[:-20])
    out.unlink()
    assert write_messages(chat, UNITS, out)["kept"] == 3
    assert journal.read_bytes() == whole


def test_resumed_runs_remember_what_was_said(server: FakeEndpoint, chat: ChatEndpoint, out: Path):
    """A later unit's repetition of an earlier run's message is a duplicate."""
    write_messages(chat, UNITS, out)
    counts = write_messages(chat, plan(["order_status"], ("en", "es"), 3, 1), out)
    assert counts == {"kept": 3, "duplicate": 3, "disagreed": 0}


def test_seen_tells_near_from_far():
    """The same threshold as that of families."""
    seen = Seen(["where is my order 123"])
    assert not seen.add("Where is my order 987?")
    assert seen.add("cancel everything")
    assert not seen.add("cancel everything!")
