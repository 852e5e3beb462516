"""From a verified artifact to a classifier that has proved itself: load, warm up, check golden answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.artifacts.manifest import Manifest
from app.artifacts.store import Artifact
from app.backends.base import BackendInfo, BackendOptions
from app.backends.factory import open_backend
from app.classification.cart import CartModel
from app.classification.cart_reader import CartReader
from app.classification.classifier import Classifier, Message
from app.classification.model_files import read_cart, read_model
from app.classification.prompt import normalise_lines
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
    cart = cart_model(artifact)
    backend = open_backend(artifact, options, kind)
    try:
        if backend.info.hidden_size != artifact.manifest.hidden_size:
            raise ManifestInvalid(
                f"{artifact.label}: the weights have {backend.info.hidden_size} dimensions, "
                f"the manifest says {artifact.manifest.hidden_size}"
            )
        classifier = Classifier(backend, model, cart)
        warm_up(classifier)
        check_golden(classifier, artifact.manifest)
    except BaseException:
        backend.close()
        raise
    return classifier


def cart_model(artifact: Artifact) -> CartModel | None:
    """The artifact's cart heads, if it has any. Raises :class:`ManifestInvalid`."""
    spec = artifact.manifest.cart
    if spec is None:
        return None
    unpublished = {spec.heads, spec.calibration} - set(artifact.manifest.entries())
    if unpublished:
        raise ManifestInvalid(f"{artifact.label}: {min(unpublished)} is not among the files")
    return read_cart(artifact.directory, spec, artifact.manifest.hidden_size)


def warm_up(classifier: Classifier) -> None:
    """A single message and a full batch, so that no customer pays for first-time work."""
    message = classifier.prepare("where is my order? it should have come on tuesday")
    classifier.classify([message])
    full = [message] * classifier.backend.info.max_sequences
    classifier.classify(next(batches(full, classifier.backend.info)))
    # Golden carts are computed next, and warm up as well: a quarter of a second that nobody waits for.
    if classifier.cart is not None and not classifier.cart.model.spec.golden:
        catalog = classifier.cart.catalog(["Green tea, 20 bags", "Coconut water 330 ml"])
        for text in ("two green teas please", "take them out again"):
            classifier.cart.decide(classifier.cart.prepare(text, catalog))


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
    if classifier.cart is not None:
        check_golden_carts(classifier.cart, manifest)


def check_golden_carts(reader: CartReader, manifest: Manifest) -> None:
    """The published carts come out again, exactly. Raises :class:`GoldenMismatch`."""
    for number, golden in enumerate(reader.model.spec.golden, 1):
        catalog = reader.catalog(golden.catalog)
        given = reader.decide(reader.prepare(normalise_lines(golden.text), catalog))
        wanted = [(one.action, one.product, one.quantity) for one in golden.actions]
        found = [(one.action, one.product, one.quantity) for one in given.actions]
        if given.outcome != golden.outcome or sorted(found) != sorted(wanted):
            raise GoldenMismatch(
                f"{manifest.name}/{manifest.version}: golden cart {number} was {golden.outcome} "
                f"with {len(wanted)} actions when published, here {given.outcome} with other ones"
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
