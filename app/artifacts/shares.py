"""How often each intent is to be expected: what drift is told against."""

from __future__ import annotations

from app.artifacts.manifest import read_json
from app.artifacts.store import Artifact
from app.domain import OUT_OF_SCOPE
from app.errors import FileDamaged

_REPORT = "report.json"


def published_shares(artifact: Artifact) -> dict[str, float] | None:
    """The manifest's ``intent_shares``; without them those of the evaluation's first set, or None."""
    if artifact.manifest.intent_shares is not None:
        return artifact.manifest.intent_shares
    if _REPORT not in artifact.manifest.entries():
        return None
    try:
        return _of_report(read_json(artifact.directory / _REPORT))
    except (FileDamaged, KeyError, IndexError, TypeError):
        return None  # a report of another shape tells people, not us


def _of_report(report: dict[str, object]) -> dict[str, float] | None:
    first = report["sets"][0]  # type: ignore[index]
    counts = {intent: int(found["n"]) for intent, found in first["by_intent"].items()}
    counts[OUT_OF_SCOPE] = int(first["fused"]["out_recall"]["n"])
    total = sum(counts.values())
    return {intent: count / total for intent, count in counts.items()} if total else None
