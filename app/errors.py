"""Every failure this service names. It knows no HTTP; ``api.problems`` maps it to statuses.

ShopintentError
├── InputError                 the caller's message cannot be served
│   ├── EmptyText
│   ├── TextTooLong
│   ├── BatchTooLarge
│   ├── CatalogInvalid         empty, too long, or an entry that cannot be used
│   ├── NoCartModel            the model was not trained to read carts
│   └── UnknownIntent          feedback names an intent that the model does not have
├── UnknownModel               no live model of that name
├── FeedbackError              feedback is not kept
│   ├── FeedbackOff            nowhere to keep it
│   ├── UnknownPrediction      no decision of that id, or not this caller's, or too long ago
│   └── FeedbackLost           the place where it is kept cannot be used
├── OverloadError              come back later; carries ``retry_after`` seconds
│   ├── QueueFull
│   ├── RateLimited            this caller has had its share
│   └── NotReady               starting, draining, or no model is live
├── DeadlineExceeded           the caller's deadline passed before the answer
├── ChangeUnderWay             another version of this model is being brought up
├── CandidateRefused           a version did not pass its checks; the one before it serves on
├── ArtifactError              an artifact cannot be used
│   ├── ManifestInvalid        unreadable, wrong schema, wrong names
│   ├── FileDamaged            missing, wrong size, wrong digest
│   ├── WeightsNotBuilt        in git there is only the recipe; run the build step
│   └── GoldenMismatch         loads, but does not give the answers it was published with
└── BackendError               a model library failed
    ├── BackendUnavailable     the library or the device is not installed
    └── InferenceFailed        a batch could not be computed
"""

from __future__ import annotations


class ShopintentError(Exception):
    """Root of the tree. ``str(error)`` is fit to be shown to the caller: it holds no message text."""

    index: int | None = None
    """Which message of a batch it is about, counted from 0, where one is to blame."""


class InputError(ShopintentError):
    """The caller's message cannot be served as it is."""


class EmptyText(InputError):
    """Nothing but white space or control characters."""


class TextTooLong(InputError):
    """The message is longer than the configured limit."""


class BatchTooLarge(InputError):
    """More messages in one request than the configured limit."""


class CatalogInvalid(InputError):
    """The catalog is empty or too long; or one entry, at ``index``, is."""


class NoCartModel(InputError):
    """The chosen model reads intents only."""


class UnknownIntent(InputError):
    """Feedback names an intent that the model does not have."""


class FeedbackError(ShopintentError):
    """Feedback is not kept."""


class FeedbackOff(FeedbackError):
    """The operator has set no place for it."""


class UnknownPrediction(FeedbackError):
    """No decision of that id, or not this caller's, or too long ago."""


class FeedbackLost(FeedbackError):
    """The place where it is kept cannot be used."""


class UnknownModel(ShopintentError):
    """No live model of that name."""


class OverloadError(ShopintentError):
    """The service cannot take the message now; try again after ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(OverloadError):
    """The waiting work has reached its bound."""


class RateLimited(OverloadError):
    """This caller asks more often than it may."""


class NotReady(OverloadError):
    """Starting, draining, or without a live model."""


class DeadlineExceeded(ShopintentError):
    """The deadline passed before there was an answer."""


class ChangeUnderWay(ShopintentError):
    """Another version of this model is being brought up; one change at a time."""


class CandidateRefused(ShopintentError):
    """A version did not pass its checks. The one before it serves on."""


class ArtifactError(ShopintentError):
    """An artifact cannot be used."""


class ManifestInvalid(ArtifactError):
    """The manifest is unreadable or breaks its schema."""


class FileDamaged(ArtifactError):
    """A file is missing or is not the one that was published."""


class WeightsNotBuilt(ArtifactError):
    """The weights have not been built on this machine yet."""


class GoldenMismatch(ArtifactError):
    """The loaded model does not reproduce the answers it was published with."""


class BackendError(ShopintentError):
    """A model library failed."""


class BackendUnavailable(BackendError):
    """The library or the device that the backend needs is not there."""


class InferenceFailed(BackendError):
    """A batch could not be computed."""
