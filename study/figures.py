"""From raw results to figures: one JSON object that tables and plots are made from, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from app.bench.latency import percentile, ratio_of_rounds
from app.classification.classifier import IntentModel
from app.classification.model_files import read_model
from study import plan
from study.accelerator import read_gpu
from study.machine import conditions
from study.plan import DEFAULT, Trial
from study.results import Arrays
from study.scores import ablations, cart_scores, label_scores, level_scores
from training.metrics import wilson

if TYPE_CHECKING:
    from study.run import Study

Raw = Mapping[str, Any]
Row = Mapping[str, Any]


def collect(study: Study) -> dict[str, Any]:
    """Figures of every trial that has been measured under today's conditions."""
    trials: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for trial in plan.trials():
        if trial.backbone != DEFAULT and not study.small_stands():
            continue
        key = study.key(trial)
        raw = study.results.read(trial, key)
        if raw is None:
            continue
        arrays: Arrays = {}
        if study.results.arrays_path(trial, key).is_file():
            arrays = study.results.arrays(trial, key)
        model = read_model(
            study.artifact(trial.backbone).directory, study.artifact(trial.backbone).manifest
        )
        rows = study.rows.read(study.row_set(trial))
        trials[trial.name] = {
            **trial_figures(trial, raw, arrays, rows, model, _groups(study)),
            "commit": raw.get("conditions", {}).get("commit"),
            "load_average": raw.get("conditions", {}).get("load_average_before"),
            "trial_seconds": raw.get("trial_seconds"),
        }
        if trial == Trial(DEFAULT, "served", "labels"):
            extra["ablations"] = ablations(arrays, rows, model)
    artifact = study.artifact(DEFAULT)
    recipe = artifact.recipe()
    found: dict[str, Any] = rounded(
        {
            "conditions": {
                **conditions(study.threads),
                "commit": sorted({t["commit"] for t in trials.values() if t["commit"]}),
            },
            "model": {
                "name": artifact.manifest.name,
                "version": artifact.manifest.version,
                "digest": artifact.recipe_digest()[:16],
                "quantisation": recipe.quantisation,
                "trimmed": recipe.vocabulary is not None,
            },
            "sizes": asdict(study.sizes),
            "groups": _groups(study),
            "trials": trials,
            "gpu": read_gpu(study.directory),
            **extra,
        }
    )
    return found


def _groups(study: Study) -> dict[str, str]:
    """Intent -> group, of the default model's manifest."""
    labels = study.artifact(DEFAULT).manifest.labels
    return {label.intent: label.group for label in labels if label.group}


def trial_figures(
    trial: Trial,
    raw: Raw,
    arrays: Arrays,
    rows: Sequence[Row],
    model: IntentModel,
    groups: Mapping[str, str],
) -> dict[str, Any]:
    """One trial's figures; what a task does not have is left out."""
    if trial.task == "turns":
        return {"contenders": turn_figures(raw["contenders"])}
    found: dict[str, Any] = {
        "file_mb": raw.get("file_mb"),
        "load_s": raw["load_seconds"],
        "memory": raw["memory"],
        "memory_before": raw["memory_before"],
    }
    if trial.task == "labels":
        alone = trial.format == "ngrams"
        return found | speed(raw) | label_scores(arrays, rows, model, groups, alone=alone)
    if trial.task == "noise":
        return found | level_scores(arrays, rows, model, alone=trial.format == "ngrams")
    if trial.task == "depth":
        hits = raw["hits"]
        return found | speed(raw) | {"accuracy": asdict(wilson(sum(hits), len(hits)))}
    if trial.task == "prefix":
        pairs = ratio_of_rounds(raw["new"], raw["known"])
        return found | {
            "new_ms": median(raw["new"]) * 1e3,
            "known_ms": median(raw["known"]) * 1e3,
            "tokens": median(raw["tokens"]),
            "new_over_known": asdict(pairs),
        }
    return found | cart_scores(raw["answers"], rows) | cart_speed(raw)


def speed(raw: Raw) -> dict[str, Any]:
    """Latency one by one, and throughput in the service's batches."""
    found: dict[str, Any] = {
        "messages_per_s": raw["all_messages"] / raw["all_seconds"],
        "joules_per_message": _each(raw.get("joules"), raw["all_messages"]),
    }
    if raw.get("all_tokens"):
        found["prompt_tokens_per_s"] = raw["all_tokens"] / raw["all_seconds"]
    if raw["seconds"]:
        found |= latency(raw["seconds"])
        found["single_messages_per_s"] = len(raw["seconds"]) / sum(raw["seconds"])
    if raw.get("batches"):
        found["batches"] = {
            size: {"ms": median(seconds) * 1e3, "messages_per_s": int(size) / median(seconds)}
            for size, seconds in raw["batches"].items()
            if seconds
        }
    return found


def cart_speed(raw: Raw) -> dict[str, Any]:
    """Of rows answered one by one."""
    answers: Sequence[Raw] = raw["answers"]
    seconds = [one["seconds"] for one in answers]
    found: dict[str, Any] = {
        **latency(seconds),
        "messages_per_s": len(seconds) / sum(seconds),
        "prompt_tokens": median(one["prompt_tokens"] for one in answers),
        "joules_per_message": _each(raw.get("joules"), len(answers)),
    }
    again = [one["again_seconds"] for one in answers if one["again_seconds"] is not None]
    if again:
        found["again_p50_ms"] = median(again) * 1e3
    prompt = [one["prompt_seconds"] or one["seconds"] for one in answers]
    if any(one["prompt_tokens"] for one in answers):
        found["prompt_tokens_per_s"] = sum(one["prompt_tokens"] for one in answers) / sum(prompt)
    generated = [one["generated_tokens"] for one in answers]
    if any(generated):
        stepping = sum(seconds) - sum(prompt)
        found["generated_tokens"] = median(generated)
        # The first token comes with the prompt.
        found["generated_tokens_per_s"] = (sum(generated) - len(generated)) / stepping
        choosing = sum(one["choosing_seconds"] for one in answers)
        found["choosing_share"] = choosing / sum(seconds)
    return found


def latency(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}_ms": percentile(seconds, share / 100) * 1e3 for share in (50, 95, 99)}


def turn_figures(contenders: Mapping[str, Raw]) -> dict[str, Any]:
    """Throughput of each contender, and round by round over both HF ones."""
    rates = {
        title: [len(seconds) / sum(seconds) for seconds in raw["rounds"]]
        for title, raw in contenders.items()
    }
    found: dict[str, Any] = {}
    for title, raw in contenders.items():
        found[title] = {
            "messages_per_s": median(rates[title]),
            "load_s": raw["load_seconds"],
            "memory": raw["memory"],
            "memory_before": raw["memory_before"],
        }
        for base in ("hf-fp32/json", "hf-bf16/json"):
            short = base.partition("/")[0]
            ratio = ratio_of_rounds(rates[title], rates[base])
            found[title][f"over_{short}"] = asdict(ratio)
            memory, of_base = (
                one.get("rss_mb") for one in (raw["memory"], contenders[base]["memory"])
            )
            if memory and of_base:
                found[title][f"memory_over_{short}"] = memory / of_base
    return found


def _each(total: float | None, count: int) -> float | None:
    return None if total is None else total / count


def rounded(value: Any) -> Any:
    """Four significant digits: more would only seem exact. What is not a number becomes None."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if value == value else None  # noqa: PLR0124 - NaN is not itself
    if isinstance(value, dict):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return str(value) if isinstance(value, Path) else value
