"""``GET /v1/models`` and ``/v1/models/{name}``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.api.schemas import ModelDetails, ModelList
from app.domain import OUT_OF_SCOPE
from tests.conftest import Running
from tests.fake_artifact import EXAMPLES, write_fake_artifact


def test_list_shows_the_default_first(run: Callable[..., Running], fake_store: Path) -> None:
    """Models stand in the operator's order and each answers under its own name."""
    write_fake_artifact(fake_store, "another", "7")
    service = run(models=("storefront", "another")).wait_until_ready()
    listed = ModelList.model_validate(service.client.get("/v1/models").json()).models
    assert [(m.name, m.version, m.default, m.state) for m in listed] == [
        ("storefront", "1", True, "live"),
        ("another", "7", False, "live"),
    ]
    for name in ("storefront", "another"):
        assert service.classify("hello", model=name).json()["model"]["name"] == name


def test_details_tell_what_the_model_knows(service: Running) -> None:
    """Intents, threshold, evaluation, origin and digest are public."""
    answer = service.client.get("/v1/models/storefront").json()
    details = ModelDetails.model_validate(answer, extra="forbid")
    assert [intent.intent for intent in details.intents or []] == list(EXAMPLES)
    assert OUT_OF_SCOPE in EXAMPLES
    assert details.threshold == 0.4
    assert details.intent_count == len(EXAMPLES) - 1
    assert len(details.digest or "") == 64
    assert details.evaluation == {"accuracy": 1.0}
