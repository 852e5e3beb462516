from __future__ import annotations

from pathlib import Path

import pytest

from app.artifacts.manifest import Golden
from app.artifacts.store import Artifact, Store
from app.backends import factory
from app.backends.base import BackendInfo, BackendOptions
from app.backends.fake import FakeBackend
from app.classification.classifier import Message
from app.classification.loading import batches, load_classifier
from app.errors import BackendUnavailable, GoldenMismatch, InferenceFailed, ManifestInvalid
from tests.fake_artifact import EXAMPLES, HIDDEN, write_fake_artifact

OPTIONS = BackendOptions(threads=1, max_sequences=4, max_tokens=512)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    write_fake_artifact(tmp_path)
    return Store(tmp_path).resolve("storefront")


def test_an_artifact_becomes_a_classifier(artifact: Artifact):
    """Loaded, warm and true to its golden answers."""
    classifier = load_classifier(artifact, OPTIONS)
    for intent, texts in EXAMPLES.items():
        prediction = classifier.classify([classifier.prepare(texts[0])])[0]
        assert prediction.intent == intent
    classifier.close()


@pytest.mark.parametrize(
    "change", [{"intent": "cart_add"}, {"confidence": 0.01}], ids=["intent", "confidence"]
)
def test_other_answers_than_the_published_ones_stop_the_load(
    artifact: Artifact, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """A model that loads but answers differently never goes live, and is freed."""
    closed = []

    def close(self: FakeBackend) -> None:
        closed.append(self)

    monkeypatch.setattr(FakeBackend, "close", close)
    first, *rest = artifact.manifest.golden
    golden = (Golden.model_validate(first.model_dump() | change), *rest)
    other = Artifact(artifact.directory, artifact.manifest.model_copy(update={"golden": golden}))
    with pytest.raises(GoldenMismatch, match="golden message 1") as caught:
        load_classifier(other, OPTIONS)
    assert first.text not in str(caught.value)
    assert len(closed) == 1


def test_a_small_shift_of_confidence_is_allowed(artifact: Artifact):
    """Instruction sets round differently; that alone does not refuse a model."""
    golden = tuple(
        g.model_copy(update={"confidence": max(0.0, g.confidence - 0.1)})
        for g in artifact.manifest.golden
    )
    manifest = artifact.manifest.model_copy(update={"golden": golden})
    load_classifier(Artifact(artifact.directory, manifest), OPTIONS).close()


def test_weights_of_another_width_are_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch):
    """Found by comparing widths, not by a failing product."""
    monkeypatch.setattr(
        "app.classification.loading.open_backend",
        lambda artifact, options, kind: FakeBackend(HIDDEN * 2, options),
    )
    with pytest.raises(ManifestInvalid, match="dimensions"):
        load_classifier(artifact, OPTIONS)


def test_a_backend_that_fails_at_warm_up_is_not_served(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
):
    """The first customer is not the test."""
    monkeypatch.setattr(
        "app.classification.loading.open_backend",
        lambda artifact, options, kind: FakeBackend(HIDDEN, options, fail_on="order"),
    )
    with pytest.raises(InferenceFailed):
        load_classifier(artifact, OPTIONS)


def test_the_operator_may_choose_the_backend(artifact: Artifact):
    """``kind`` overrides the artifact's format; an unknown one is refused by name."""
    assert factory.open_backend(artifact, OPTIONS, "fake").info.kind == "fake"
    with pytest.raises(BackendUnavailable, match="quantum"):
        factory.open_backend(artifact, OPTIONS, "quantum")


def test_a_missing_library_is_told_plainly(artifact: Artifact, monkeypatch: pytest.MonkeyPatch):
    """Without the extra installed the error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "app.backends.gguf", None)
    with pytest.raises(BackendUnavailable, match="extra `cpu`"):
        factory.open_backend(artifact, OPTIONS, "gguf")


def test_batches_keep_order_and_limits():
    """No batch beyond sequences or tokens; a lone long message still gets its turn."""
    info = BackendInfo("fake", HIDDEN, max_sequences=3, max_tokens=10, max_message_tokens=10)
    messages = [Message(str(n), [0] * n) for n in (4, 4, 4, 1, 1, 1, 10, 9)]
    packed = list(batches(messages, info))
    assert [message for batch in packed for message in batch] == messages
    assert [len(batch) for batch in packed] == [2, 3, 1, 1, 1]
    assert all(sum(len(m.tokens) for m in batch) <= 10 for batch in packed)
