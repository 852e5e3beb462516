"""The Open Inference Protocol, spoken to by Triton's own client and by hand."""

from __future__ import annotations

import contextlib
import json
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.tensors import EXAMPLE, read_request
from app.errors import InputError
from tests.api.test_auth import ADMIN, CLASSIFY, KEYS
from tests.conftest import PATIENCE, Running
from tests.fake_artifact import write_fake_artifact

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent's and its own, at import
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

MESSAGES = ["where is my order", "what is the capital of france", "gdje je moja narudžba 👟"]


@pytest.fixture(scope="module")
def guarded(service_with: Callable[..., Running]) -> Running:
    return service_with(keys=KEYS)


@pytest.fixture
def client(service: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        yield client


def tensor(texts: list[str], *, binary: bool, shape: list[int] | None = None) -> triton.InferInput:
    given_ = triton.InferInput("text", shape or [len(texts)], "BYTES")
    array = np.array([text.encode() for text in texts], dtype=np.object_)
    given_.set_data_from_numpy(array.reshape(given_.shape()), binary_data=binary)
    return given_


def test_triton_finds_server_and_model(client: triton.InferenceServerClient) -> None:
    """Health, readiness and metadata, with and without a version."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("storefront")
    assert client.is_model_ready("storefront", "1")
    assert not client.is_model_ready("storefront", "2")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    model = client.get_model_metadata("storefront", "1")
    assert (model["name"], model["versions"]) == ("storefront", ["1"])
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in model["outputs"]] == [
        "intent", "confidence", "in_scope", "scores",
    ]  # fmt: skip


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_triton_gets_the_answers_of_classify(
    service: Running,
    client: triton.InferenceServerClient,
    binary_in: bool,
    binary_out: bool | None,
) -> None:
    """As bytes or as JSON, all outputs or chosen ones: the same decisions as over /v1."""
    names = ["intent", "confidence", "in_scope", "scores"]
    wanted = binary_out is not None and [
        triton.InferRequestedOutput(name, binary_data=binary_out) for name in names
    ]
    result = client.infer(
        "storefront", [tensor(MESSAGES, binary=binary_in)], outputs=wanted or None, request_id="7"
    )
    assert result.get_response()["id"] == "7"
    intents, confidences, in_scope, scores = (result.as_numpy(name) for name in names)
    labels = result.get_output("scores")["parameters"]["labels"]
    assert scores.shape == (len(MESSAGES), len(labels))
    for row, text in enumerate(MESSAGES):
        expected = service.classify(text, top_k=100).json()
        intent = intents[row]  # the client decodes the strings of JSON, not those of bytes
        assert (intent if isinstance(intent, str) else intent.decode()) == expected["intent"]
        assert bool(in_scope[row]) is expected["in_scope"]
        assert confidences[row] == pytest.approx(expected["confidence"], abs=1e-5)
        ranking = {one["intent"]: one["confidence"] for one in expected["ranking"]}
        assert dict(zip(labels, scores[row], strict=True)) == pytest.approx(ranking, abs=1e-5)


def test_triton_chooses_outputs_shape_and_deadline(client: triton.InferenceServerClient) -> None:
    """One output of four; [n, 1] is taken as [n]; a deadline in microseconds is kept."""
    wanted = [triton.InferRequestedOutput("intent")]
    given_ = tensor(MESSAGES, binary=True, shape=[3, 1])
    result = client.infer(
        "storefront", [given_], model_version="1", outputs=wanted, timeout=5_000_000
    )
    assert result.as_numpy("intent").shape == (3,)
    assert result.as_numpy("scores") is None


def test_triton_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    """The client shows our sentence and status, not a decoding error of its own."""
    with pytest.raises(InferenceServerException, match="no such model here") as raised:
        client.infer("nobody", [tensor(["a"], binary=True)])
    assert raised.value.status() == "404"
    with pytest.raises(InferenceServerException, match="at least one visible character"):
        client.infer("storefront", [tensor([" "], binary=True)])
    wrong = [triton.InferRequestedOutput("logits")]
    with pytest.raises(InferenceServerException, match="the outputs are"):
        client.infer("storefront", [tensor(["a"], binary=True)], outputs=wrong)
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        client.infer(
            "storefront", [tensor(["a"], binary=True)], request_compression_algorithm="gzip"
        )


@pytest.mark.parametrize(
    "outputs",
    [
        [{"name": "logits"}],
        [{"name": "intent"}, {"name": "intent"}],
        [{"name": "scores", "parameters": {"classification": 3}}],
    ],
)
def test_outputs_that_there_are_not_cost_nothing(
    service: Running, outputs: list[dict[str, object]]
) -> None:
    """They are refused before anything is computed, counted as decided or kept in the cache."""

    def looked_up() -> list[str]:
        told = service.client.get("/metrics").text.splitlines()
        return [line for line in told if line.startswith("intent_cache_requests_total")]

    before = looked_up()
    response = service.client.post(
        "/v2/models/storefront/infer", json=EXAMPLE | {"outputs": outputs}
    )
    assert (response.status_code, "the outputs are" in response.text) == (422, True)
    assert looked_up() == before


def test_triton_brings_a_key(guarded: Running) -> None:
    """Without it 401, with one for other things 403; only health is open."""
    with triton.InferenceServerClient(f"127.0.0.1:{guarded.port}") as client:
        assert client.is_server_ready()
        for key, status in ((None, "401"), ("wrong", "401"), (ADMIN, "403"), (CLASSIFY, None)):
            headers = {"authorization": f"Bearer {key}"} if key else None
            given_ = [tensor(["where is my order"], binary=True)]
            if status is None:
                assert client.infer("storefront", given_, headers=headers).as_numpy("intent").size
                continue
            with pytest.raises(InferenceServerException) as raised:
                client.infer("storefront", given_, headers=headers)
            assert raised.value.status() == status


def body(**changes: object) -> dict[str, object]:
    return {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hello"], **changes}


@pytest.mark.parametrize(
    "inputs",
    [
        [], [body(), body()], [body(name="words")], [body(datatype="FP32")], [body(shape=[])],
        [body(shape=[2])], [body(shape=[1, 2])], [body(shape=[-1])], [body(shape=[0], data=[])],
        [body(data=[1])], [body(data=[["a", "b"]])], [body(data=None)], [body(shape=[1, 1, 1])],
        [body(parameters={"binary_data_size": 3})], [body(parameters={"binary_data_size": 0})], [7],
        [body(parameters={"binary_data_size": "x"}, data=None)], [{}], "text", None,
    ],
)  # fmt: skip
def test_what_is_no_tensor_of_messages_is_422(service: Running, inputs: object) -> None:
    """Wrong names, types, shapes and sizes are told, never guessed at."""
    response = service.client.post("/v2/models/storefront/infer", json={"inputs": inputs})
    assert response.status_code == 422
    assert response.json()["error"] == response.json()["detail"]
    assert "hello" not in response.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null", b"[]", b"[" * 100_000, b"{}" * 9])
def test_what_is_no_json_is_refused(service: Running, content: bytes) -> None:
    """However broken, it is the caller's mistake."""
    response = service.client.post("/v2/models/storefront/infer", content=content)
    assert response.status_code == 422


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30, "1"])
def test_a_wrong_length_of_the_json_is_refused(service: Running, length: str) -> None:
    """The header must say where the JSON ends."""
    response = service.client.post(
        "/v2/models/storefront/infer",
        content=json.dumps({"inputs": [body()]}),
        headers={"Inference-Header-Content-Length": length},
    )
    assert response.status_code == 422


@pytest.mark.parametrize(
    ("timeout", "status"),
    [
        ("1e999", 422), ("Infinity", 422), ("NaN", 422), ("1" + "0" * 400, 422), (str(1 << 64), 422),
        (str((1 << 64) - 1), 200), ("0", 200), ("-1e999", 200), ('"soon"', 200), ("true", 200),
    ],
)  # fmt: skip
def test_a_timeout_beyond_all_bounds_is_422(service: Running, timeout: str, status: int) -> None:
    """JSON has numbers that no clock has; those are the caller's mistake."""
    content = json.dumps({"parameters": {"timeout": "?"}, "inputs": [body()]})
    response = service.client.post(
        "/v2/models/storefront/infer", content=content.replace('"?"', timeout)
    )
    assert response.status_code == status
    if status == 422:
        assert response.json()["detail"].startswith("#/parameters/timeout")


def test_the_version_is_that_which_is_live_when_the_body_has_come(
    run: Callable[..., Running], fake_store: Path
) -> None:
    """Who asks a version by name is never answered by another one."""
    write_fake_artifact(fake_store, version="2")
    (fake_store / "storefront/active").write_text("1\n")
    service = run().wait_until_ready()
    content = json.dumps({"inputs": [body()]}).encode()

    def slowly() -> Iterator[bytes]:
        yield content[:10]
        activated = httpx.post(
            f"http://127.0.0.1:{service.port}/v1/admin/models/storefront/activate",
            json={"version": "2"},
            timeout=PATIENCE,
        )
        assert activated.json()["version"] == "2"
        yield content[10:]

    path = "/v2/models/storefront/versions/1/infer"
    response = service.client.post(path, content=slowly())
    assert response.status_code == 404
    assert response.json()["error"] == "the version served here is 2"


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.binary(max_size=12))
def test_bytes_are_read_whole_or_refused(texts: list[str], junk: bytes) -> None:
    """What was packed is what is read; anything else raises the one error."""
    words = [text.encode() for text in texts]
    packed = b"".join(struct.pack("<I", len(word)) + word for word in words)

    def read(content: bytes) -> list[str]:
        parameters = {"binary_data_size": len(content)}
        head = json.dumps(
            {"inputs": [body(shape=[len(texts)], data=None, parameters=parameters)]}
        ).encode()
        return read_request(head + content, len(head))[1]

    assert read(packed) == texts
    if junk:
        try:
            assert len(read(packed + junk)) == len(texts)
        except InputError:
            pass
        else:
            raise AssertionError("more was packed than the shape says")
        with pytest.raises(InputError):
            read(packed[:-1])


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300)))
def test_no_body_breaks_the_reader(content: bytes, length: int | None) -> None:
    """Any bytes are a request or an :class:`InputError`."""
    with contextlib.suppress(InputError):
        read_request(content, length)
