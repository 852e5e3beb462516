"""What is served, what is refused at the start, and how the service goes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.artifacts.manifest import MANIFEST
from app.artifacts.store import BUILD, WEIGHTS, Artifact
from tests.conftest import wait_for
from tests.e2e.conftest import NAME, PATIENCE, STORE, Storefront
from tests.process import ROOT, SHOPINTENT, environment

pytestmark = pytest.mark.weights

Start = Callable[..., Storefront]


@pytest.fixture
def start(artifact: Artifact, tmp_path: Path) -> Iterator[Start]:
    """Starts the default model with all settings at their defaults but those given."""
    with ExitStack() as started:
        yield lambda store=STORE, **settings: started.enter_context(
            Storefront(store, tmp_path / "log", **settings)
        )


@pytest.fixture
def copied(artifact: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the artifact that a test may damage; unchanged files are links."""
    directory = tmp_path / "store" / NAME / artifact.manifest.version
    (directory / WEIGHTS).mkdir(parents=True)
    for entry in artifact.manifest.files:
        (directory / entry.path).symlink_to(artifact.directory / entry.path)
    shutil.copyfile(artifact.directory / MANIFEST, directory / MANIFEST)
    shutil.copyfile(artifact.weights_directory / BUILD, directory / WEIGHTS / BUILD)
    weights = artifact.weights_path()
    (directory / WEIGHTS / weights.name).symlink_to(weights)
    return Artifact(directory, artifact.manifest)


def _weights(copied: Artifact) -> Path:
    """The copy's weights as a file of its own."""
    path = copied.weights_directory / copied.recipe().output
    built = path.resolve()
    path.unlink()
    shutil.copyfile(built, path)
    return path


def _flip_a_byte(copied: Artifact) -> None:
    path = _weights(copied)
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        (byte,) = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))


def _cut_in_half(copied: Artifact) -> None:
    path = _weights(copied)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def _forget_the_marker(copied: Artifact) -> None:
    (copied.weights_directory / BUILD).unlink()


def _cut_the_head(copied: Artifact) -> None:
    path = copied.directory / "head.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-4])


def _change_a_golden_answer(copied: Artifact) -> None:
    manifest = json.loads((copied.directory / MANIFEST).read_text())
    manifest["golden"][0]["intent"] = "invoice"
    (copied.directory / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip_a_byte, "is not the file that was built"),
        (_cut_in_half, "is not the file that was built"),
        (_forget_the_marker, "has no weights on this machine yet"),
        (_cut_the_head, "head.safetensors is not the file that was published"),
        (_change_a_golden_answer, "golden message 1 was invoice"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damaged_model_is_never_served(
    start: Start, copied: Artifact, damage: Callable[[Artifact], None], reason: str
) -> None:
    """The process ends with status 1, and its last words say what is wrong and what to do."""
    damage(copied)
    process = start(copied.directory.parent.parent)
    assert process.process.wait(PATIENCE) == 1
    (told,) = [line for line in process.lines() if line["event"] == "no model could be loaded"]
    assert reason in told["reason"]
    assert "shopintent models build" in told["help"]
    assert "model is live" not in {line["event"] for line in process.lines()}


def test_it_is_not_ready_before_it_is(start: Start) -> None:
    """From the first answered probe on: alive, but no 200 of readiness before it can classify."""
    process = start()
    before: list[httpx.Response] = []

    def alive() -> bool:
        try:
            before.append(process.client.get("/readyz"))
        except httpx.TransportError:
            return False
        return True

    wait_for(alive, PATIENCE)
    assert process.client.get("/livez").status_code == 200
    if before[0].status_code != 200:
        assert before[0].json()["type"] == "/docs#not-ready"
        assert int(before[0].headers["retry-after"]) >= 1
    process.wait_until_ready()
    assert process.classify("where is my parcel")["in_scope"]
    again = process.classify("where is my parcel")
    assert again["timings_ms"]["inference"] == 0, "the second time it comes from the cache"
    assert again["intent"] == process.classify("where is my parcel")["intent"]
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(PATIENCE) == 0


def test_sigterm_under_load_answers_what_was_admitted(start: Start) -> None:
    """No request is cut off, neither singles nor a bulk of two seconds' work; exit status 0."""
    process = start(INTENT_DRAIN_SECONDS="0.5").wait_until_ready()
    seen: Counter[object] = Counter()
    stop = threading.Event()

    def ask(caller: int) -> None:
        for turn in range(100_000):
            if stop.is_set():
                return
            text = f"where is order {caller}-{turn}"
            try:
                answer = process.client.post("/v1/classify", json={"text": text})
            except httpx.ConnectError:  # the listener is closed: the request was never taken
                return
            except httpx.TransportError as error:
                seen[type(error).__name__] += 1
                return
            seen[answer.status_code] += 1

    def ask_in_bulk() -> int:
        texts = [f"i want to return item number {number}" for number in range(96)]
        return len(process.classify_batch(texts))

    with ThreadPoolExecutor(9) as callers:
        asked = [callers.submit(ask, number) for number in range(8)]
        wait_for(lambda: seen[200] > 20, PATIENCE)
        bulk = callers.submit(ask_in_bulk)
        wait_for(lambda: process.metric("intent_queue_tokens") > 400, PATIENCE)
        assert process.stop(PATIENCE) == 0
        stop.set()
        assert bulk.result(PATIENCE) == 96
        for one in asked:
            one.result(PATIENCE)
    assert set(seen) <= {200, 503}
    logged = Counter(
        line["status"] for line in process.lines() if line.get("route") == "/v1/classify"
    )
    assert logged == seen


def test_command_line_answers_without_a_server(artifact: Artifact) -> None:
    """Messages on standard input, one a line, come out as one JSON object a line."""
    texts = ["put two of the blue mugs in my basket", "what's the capital of france"]
    done = subprocess.run(
        [SHOPINTENT, "classify"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(STORE),
        timeout=PATIENCE,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["intent"] for row in rows] == ["cart_add", "out_of_scope"]
