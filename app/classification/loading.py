"""From a verified artifact to a classifier that has proved itself: load, warm up, check golden answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.artifacts.manifest import Manifest
from app.artifacts.store import Artifact
from app.backends.base import BackendInfo, BackendOptions
from app.backends.factory import open_backend
from app.classification.classifier import Classifier, Message
from app.classification.model_files import read_model
from app.errors import GoldenMismatch, ManifestInvalid

CONFIDENCE_TOLERANCE = 0.15
"""How far a golden confidence may move between machines: instruction sets round differently."""


def load_classifier(
    artifact: Artifact, options: BackendOptions, kind: str | None = None
) -> Classifier:
    """A classifier that is ready to serve.

    Raises :class:`app.errors.ArtifactError`, :class:`GoldenMismatch` among them, or
    :class:`app.errors.BackendError`; nothing stays loaded then.
    """
    model = read_model(artifact.directory, artifact.manifest)
    backend = open_backend(artifact, options, kind)
    classifier = Classifier(backend, model)
    try:
        if backend.info.hidden_size != artifact.manifest.hidden_size:
            raise ManifestInvalid(
                f"{artifact.label}: the weights have {backend.info.hidden_size} dimensions, "
                f"the manifest says {artifact.manifest.hidden_size}"
            )
        warm_up(classifier)
        check_golden(classifier, artifact.manifest)
    except BaseException:
        classifier.close()
        raise
    return classifier


def warm_up(classifier: Classifier) -> None:
    """A single message and a full batch, so that no customer pays for first-time work."""
    message = classifier.prepare("where is my order? it should have come on tuesday")
    classifier.classify([message])
    full = [message] * classifier.backend.info.max_sequences
    classifier.classify(next(batches(full, classifier.backend.info)))


def check_golden(classifier: Classifier, manifest: Manifest) -> None:
    """The published answers come out again. Raises :class:`GoldenMismatch`."""
    messages = [classifier.prepare(golden.text) for golden in manifest.golden]
    predictions = [
        prediction
        for batch in batches(messages, classifier.backend.info)
        for prediction in classifier.classify(batch)
    ]
    for number, (golden, given) in enumerate(zip(manifest.golden, predictions, strict=True), 1):
        moved = abs(golden.confidence - given.confidence)
        if golden.intent != given.intent or moved > CONFIDENCE_TOLERANCE:
            raise GoldenMismatch(
                f"{manifest.name}/{manifest.version}: golden message {number} was "
                f"{golden.intent} ({golden.confidence:.2f}) when published, "
                f"here {given.intent} ({given.confidence:.2f})"
            )


def batches(messages: Iterable[Message], info: BackendInfo) -> Iterator[list[Message]]:
    """Messages in order, in batches that the backend takes at once."""
    batch: list[Message] = []
    tokens = 0
    for message in messages:
        full = len(batch) == info.max_sequences or tokens + len(message.tokens) > info.max_tokens
        if batch and full:
            yield batch
            batch, tokens = [], 0
        batch.append(message)
        tokens += len(message.tokens)
    if batch:
        yield batch
