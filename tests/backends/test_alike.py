"""What every backend promises, tried on all of them: fake, GGUF, and GPTQ on a Gemma and a Llama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.artifacts.store import Store
from app.backends.base import MarkedTokens
from app.classification.classifier import Classifier
from app.classification.loading import load_classifier
from app.domain import Prediction
from app.errors import InferenceFailed, WeightsNotBuilt
from app.settings import Settings
from tests.backends.tiny_checkpoint import write_tiny_llama
from tests.backends.tiny_intents import (
    OPTIONS,
    Case,
    write_checkpoint_intents,
    write_tiny_intents,
)
from tests.conftest import Running
from tests.fake_artifact import EXAMPLES, write_fake_artifact

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

KINDS = ("fake", "gguf", "gptq", "llama")
ROUNDING = 0.02
"""Of the largest number among states."""
TEXTS = [text for texts in EXAMPLES.values() for text in texts]
MEANT = [intent for intent, texts in EXAMPLES.items() for _ in texts]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artifact of each kind; both GPTQ checkpoints are quantised here, once: 8 and 4 bits."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from training.examples import Example
    from training.gptq import GptqConfig, quantise
    from training.quantise import quantise_artifact

    root = tmp_path_factory.mktemp("store")
    write_fake_artifact(root, "fake")
    tiny = write_tiny_intents(root)
    examples = [Example(text, intent) for text, intent in zip(TEXTS, MEANT, strict=True)]
    quantise_artifact(tiny, examples, examples, GptqConfig(), threads=1)
    work = tmp_path_factory.mktemp("llama")
    llama = write_tiny_llama(work / "merged")
    prompts = [[1, *(byte % 250 + 3 for byte in text.encode()), 13] for text in TEXTS]
    quantise(llama, prompts, GptqConfig(bits=4), work / "quantised", threads=1)
    write_checkpoint_intents(root, work / "quantised", "llama")
    return root


@pytest.fixture(scope="module")
def cases(store: Path) -> dict[str, Case]:
    return {
        "fake": Case(store, "fake", "fake"),
        "gguf": Case(store, "tiny", "gguf"),
        "gptq": Case(store, "tiny", "gptq"),
        "llama": Case(store, "llama", "gptq"),
    }


@pytest.fixture(scope="module")
def classifiers(cases: dict[str, Case]) -> Iterator[Callable[[str], Classifier]]:
    loaded: dict[str, Classifier] = {}

    def load(kind: str) -> Classifier:
        if kind not in loaded:
            case = cases[kind]
            artifact = Store(case.store).resolve(case.name)
            loaded[kind] = load_classifier(artifact, OPTIONS, case.kind)
        return loaded[kind]

    yield load
    for classifier in loaded.values():
        classifier.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_knows_its_examples(kind: str, classifiers: Callable[[str], Classifier]):
    """Text in, the right intent out: tokeniser, prompt, states and head fit each other."""
    classifier = classifiers(kind)
    best = [
        classifier.classify([classifier.prepare(text)])[0].ranking[0].intent
        for text, meant in zip(TEXTS, MEANT, strict=True)
        if meant != "out_of_scope"
    ]
    assert best == [meant for meant in MEANT if meant != "out_of_scope"]


def test_batching_does_not_change_answers(kind: str, classifiers: Callable[[str], Classifier]):
    """Alone, among others, and in another order: a message gets the same confidences, up to rounding."""
    classifier = classifiers(kind)
    messages = [classifier.prepare(text) for text in (TEXTS[0], "ok", TEXTS[4], "?" * 40)]
    alone = np.concatenate([classifier.backend.embed([m.tokens]) for m in messages])
    together = classifier.backend.embed([m.tokens for m in messages])
    reversed_ = classifier.backend.embed([m.tokens for m in messages[::-1]])[::-1]
    # llama.cpp multiplies 8-bit weights by 8-bit states, and rounds one row otherwise than several.
    within = ROUNDING * np.abs(alone).max()
    np.testing.assert_allclose(together, alone, atol=within)
    np.testing.assert_allclose(reversed_, alone, atol=within)
    given = classifier.classify(messages)
    for answer, message in zip(given, messages, strict=True):
        by_itself = classifier.classify([message])[0]
        assert answer.in_scope == by_itself.in_scope
        # Two intents may be as good as even ("ok"), so that rounding chooses between them.
        assert _confidences(answer) == pytest.approx(_confidences(by_itself), abs=ROUNDING)


def _confidences(answer: Prediction) -> dict[str, float]:
    return {score.intent: score.confidence for score in answer.ranking}


def test_gguf_and_gptq_say_the_same(classifiers: Callable[[str], Classifier]):
    """Same merged weights, other bits and other arithmetic: same labels, like probabilities."""
    before, after = classifiers("gguf"), classifiers("gptq")
    for text in TEXTS:
        assert list(before.backend.tokenise(text)) == list(after.backend.tokenise(text))
        old, new = (c.classify([c.prepare(text)])[0] for c in (before, after))
        assert old.intent == new.intent
        assert abs(old.confidence - new.confidence) < 0.05


def test_the_limits_are_kept(kind: str, classifiers: Callable[[str], Classifier]):
    """What a backend does not take it refuses by the same name, and serves on."""
    backend = classifiers(kind).backend
    token = backend.tokenise("a")[0]
    too_many = [[token]] * (backend.info.max_sequences + 1)
    too_long = [[token] * (backend.info.max_tokens + 1)]
    for wrong in ([], too_many, too_long):
        with pytest.raises(InferenceFailed, match="no batch"):
            backend.embed(wrong)
    assert backend.embed([[token]]).shape == (1, backend.info.hidden_size)


def test_a_long_message_keeps_its_ends(kind: str, classifiers: Callable[[str], Classifier]):
    """At most what was announced; the middle goes."""
    backend = classifiers(kind).backend
    ids = backend.tokenise("j" * 400 + "q" * 400)
    assert len(ids) == backend.info.max_message_tokens
    assert (ids[0], ids[-1]) == (backend.tokenise("j")[-1], backend.tokenise("q")[-1])


@pytest.mark.parametrize("kind", KINDS[1:])  # the fake one's marks see lines, not all before them
def test_states_after_a_prefix(kind: str, classifiers: Callable[[str], Classifier]):
    """One row a mark, the prefix's not changed by what follows it."""
    backend = classifiers(kind).backend
    catalog, text = backend.tokenise("blue mug\nred shirt\n"), backend.tokenise("i take three")
    prefix = MarkedTokens(tuple(catalog), (3, len(catalog) - 1))
    message = MarkedTokens(tuple(text), (len(text) - 1,))
    products, slots = backend.embed_after(prefix, message)
    assert products.shape == (2, backend.info.hidden_size)
    assert slots.shape == (1, backend.info.hidden_size)
    again, _ = backend.embed_after(prefix, MarkedTokens(tuple(text[:2]), (1,)))
    np.testing.assert_allclose(again, products, atol=ROUNDING * np.abs(products).max())
    whole = MarkedTokens((*prefix.tokens[:2],), (1,))
    rest = MarkedTokens(
        (*prefix.tokens[2:], *message.tokens), (len(prefix.tokens) + len(text) - 3,)
    )
    np.testing.assert_allclose(
        backend.embed_after(whole, rest)[1], slots, atol=ROUNDING * np.abs(slots).max()
    )


def test_served_over_http(
    kind: str, cases: dict[str, Case], classifiers: Callable[[str], Classifier], settings: Settings
):
    """The whole way: the answer of the service is the classifier's, and names its backend."""
    case = cases[kind]
    changed = settings.model_copy(
        update={
            "store_dir": case.store,
            "models": (case.name,),
            "backend": case.kind,
            "max_sequences": OPTIONS.max_sequences,
            "max_tokens": OPTIONS.max_tokens,
        }
    )
    with Running(changed) as service:
        service.wait_until_ready()
        answer = service.client.post("/v1/classify", json={"text": TEXTS[1]})
        assert answer.status_code == 200
        body = answer.json()
        batch = service.client.post("/v1/classify/batch", json={"texts": TEXTS}).json()
        refused = service.client.post("/v1/classify", json={"text": "\u200b"})
    classifier = classifiers(kind)
    expected = classifier.classify([classifier.prepare(TEXTS[1])])[0]
    assert body["intent"] == expected.intent
    assert abs(body["confidence"] - expected.confidence) < 1e-3
    assert body["model"]["backend"] == case.kind
    assert [result["ranking"][0]["intent"] for result in batch["results"]][1] == MEANT[1]
    assert refused.status_code == 422


def test_weights_that_are_not_there_are_named(store: Path):
    """GPTQ asked of an artifact that has none: told what to run, not served something else."""
    from tests.backends.tiny_gguf import write_tiny_artifact

    write_tiny_artifact(store / "bare")
    artifact = Store(store / "bare").resolve("tiny")
    from app.backends.factory import open_backend

    with pytest.raises(WeightsNotBuilt, match="training quantise --name tiny"):
        open_backend(artifact, OPTIONS, "gptq")
    with pytest.raises(WeightsNotBuilt, match="models build"):
        open_backend(artifact, OPTIONS, "gguf")
