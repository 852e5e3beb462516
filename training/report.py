"""The evaluation report of a version: JSON for machines, Markdown for git, one HTML file with pictures."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.artifacts.manifest import Manifest, write_atomically
from app.classification.decision import Calibration
from training.evaluate import Evaluation
from training.measure import Comparison
from training.metrics import Interval, Scores
from training.recipe import Recipe
from training.runs import StepRecord

REPORT_JSON = "report.json"
REPORT_MD = "report.md"
REPORT_HTML = "report.html"

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;width:100%}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
figure{margin:1rem 0}svg{max-width:100%;height:auto;background:#fff;border-radius:.5rem}
"""


@dataclass(frozen=True, slots=True)
class Making:
    """How a version was made, as far as it was measured."""

    steps: Mapping[str, StepRecord] = field(default_factory=dict)
    comparison: Comparison | None = None
    recipe: Recipe | None = None


def write_report(
    directory: Path,
    manifest: Manifest,
    calibration: Calibration,
    evaluations: Sequence[Evaluation],
    making: Making,
) -> tuple[str, ...]:
    """Write the three files into the artifact; returns their paths."""
    content = {
        "model": f"{manifest.name}/{manifest.version}",
        "created": manifest.created,
        "quantisation": manifest.weights.quantisation if manifest.weights else None,
        "trained_on": manifest.trained_on,
        "calibration": asdict(calibration),
        "sets": [asdict(evaluation) for evaluation in evaluations],
        "making": asdict(making),
    }
    write_atomically(directory / REPORT_JSON, _json(content))
    tables = [*_sections(calibration, evaluations), *_making(making)]
    write_atomically(directory / REPORT_MD, _markdown(manifest, tables).encode())
    write_atomically(directory / REPORT_HTML, _html(manifest, tables, evaluations).encode())
    return REPORT_JSON, REPORT_MD, REPORT_HTML


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1, default=float).replace("NaN", "null").encode() + b"\n"


Table = tuple[str, str, list[str], list[list[str]]]
"""Heading, text, column names, rows."""

_SUMMARY_COLUMNS = [
    *("set", "messages", "model", "accuracy", "macro F1", "MCC", "coverage", "OOS recall"),
    *("AUROC", "ECE"),
]


def _sections(calibration: Calibration, evaluations: Sequence[Evaluation]) -> list[Table]:
    tables: list[Table] = [
        (
            "Summary",
            (
                "Accuracy: right intents among in-scope messages, no threshold. MCC, coverage and "
                f"out-of-scope recall: decisions at the fixed threshold {calibration.threshold:.3f}. "
                "95% Wilson intervals in brackets. Beside the fused decision, each half alone "
                "(the n-gram model is the baseline)."
            ),
            _SUMMARY_COLUMNS,
            [
                [evaluation.name, str(evaluation.n), label, *_cells(scores)]
                for evaluation in evaluations
                for label, scores in (
                    ("fused", evaluation.fused),
                    ("language model", evaluation.lm),
                    ("n-grams", evaluation.ngram),
                )
            ],
        )
    ]
    staged = [evaluation for evaluation in evaluations if evaluation.stages]
    if staged:
        tables.append(_stages(staged))
    for evaluation in evaluations:
        if len(evaluation.by_language) > 1:
            tables.append(
                (
                    f"{evaluation.name}: by language",
                    "In-scope accuracy.",
                    ["language", "messages", "accuracy"],
                    [[k, str(v.n), _interval(v)] for k, v in evaluation.by_language.items()],
                )
            )
        worst = sorted(evaluation.by_intent.items(), key=lambda item: item[1].value)
        tables.append(
            (
                f"{evaluation.name}: by intent",
                "In-scope accuracy, the weakest first.",
                ["intent", "messages", "accuracy"],
                [[k, str(v.n), _interval(v)] for k, v in worst],
            )
        )
        tables.append(
            (
                f"{evaluation.name}: confusions",
                "The commonest wrong decisions at the threshold.",
                ["meant", "decided", "messages"],
                [[meant, got, str(n)] for meant, got, n in evaluation.confusions],
            )
        )
        tables.append(
            (
                f"{evaluation.name}: coverage and risk",
                "When only the surest share of all messages is answered, how many answers are wrong.",
                ["answered", "wrong among them"],
                _coverage(evaluation),
            )
        )
    return tables


def _stages(evaluations: Sequence[Evaluation]) -> Table:
    return (
        "N-grams first",
        (
            "The cascade (INTENT_CASCADE): in-scope messages that n-grams answer alone, and what all "
            "answers together are worth then. Accuracy without a threshold."
        ),
        ["set", "cascade", "by n-grams", "accuracy", "OOS recall", "ECE"],
        [
            [
                evaluation.name,
                name,
                _interval(stages.share),
                _interval(stages.accuracy),
                _interval(stages.out_recall) if stages.out_recall.n else "–",
                _number(stages.ece),
            ]
            for evaluation in evaluations
            for name, stages in evaluation.stages.items()
        ],
    )


def _making(making: Making) -> list[Table]:
    """What it took, and what was lost on the way to the served weights."""
    tables: list[Table] = []
    compared = making.comparison
    if compared is not None:
        tables.append(
            (
                "Quantised against unquantised",
                (
                    f"{compared.n} {compared.rows}, through llama.cpp on the built weights and through "
                    "torch on the merged ones in bfloat16, with the same heads and calibration. "
                    f"Same decision on {_interval(compared.agreement)} of them; cosine of the hidden "
                    f"states {compared.mean_cosine:.4f} on average, {compared.least_cosine:.4f} at the "
                    "least."
                ),
                ["in-scope accuracy", "quantised", "unquantised"],
                [
                    ["fused", _interval(compared.quantised), _interval(compared.unquantised)],
                    [
                        "language model",
                        _interval(compared.lm_quantised),
                        _interval(compared.lm_unquantised),
                    ],
                ],
            )
        )
    if making.steps:
        seconds = sum(record.seconds for record in making.steps.values())
        tables.append(
            (
                "Making it",
                (
                    f"{seconds:.0f} s in all. Memory: the greatest that was resident in a step. Steps "
                    "that stood from an earlier try are counted as they were measured then."
                ),
                ["step", "seconds", "memory, MB", "device", "device memory, MB"],
                [
                    [
                        step,
                        f"{record.seconds:.1f}",
                        f"{record.peak_mb:.0f}",
                        record.device,
                        "–" if record.device_peak_mb is None else f"{record.device_peak_mb:.0f}",
                    ]
                    for step, record in making.steps.items()
                ],
            )
        )
    if making.recipe is not None:
        knobs = making.recipe.as_dict()
        knobs |= knobs.pop("tuning")
        tables.append(
            ("Recipe", "The knobs.", ["knob", "value"], [[k, str(v)] for k, v in knobs.items()])
        )
    return tables


def _coverage(evaluation: Evaluation) -> list[list[str]]:
    """Error among the answered at round shares of answered messages."""
    rows = []
    for wanted in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        share, risk = min(evaluation.risk, key=lambda point: abs(point[0] - wanted))
        rows.append([f"{share:.2f}", f"{risk:.3f}"])
    return rows


def _cells(scores: Scores) -> list[str]:
    return [
        _interval(scores.accuracy),
        _number(scores.macro_f1),
        _number(scores.mcc),
        _interval(scores.coverage),
        _interval(scores.out_recall) if scores.out_recall.n else "–",
        _number(scores.auroc),
        _number(scores.ece),
    ]


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"  # noqa: PLR0124 (not a number)


def _title(manifest: Manifest) -> tuple[str, str]:
    quantisation = manifest.weights.quantisation if manifest.weights else "none"
    return (
        f"Evaluation of {manifest.name}/{manifest.version}",
        (
            f"Created {manifest.created}. Weights: {quantisation}, measured on the serving backend. "
            f"Trained on: {', '.join(manifest.trained_on)}."
        ),
    )


def _markdown(manifest: Manifest, tables: Sequence[Table]) -> str:
    title, intro = _title(manifest)
    lines = [f"# {title}", "", intro, ""]
    for heading, text, columns, rows in tables:
        lines += [f"## {heading}", "", text, ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _html(manifest: Manifest, tables: Sequence[Table], evaluations: Sequence[Evaluation]) -> str:
    title, intro = _title(manifest)
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>"]
    parts += [f"<figure>{_picture(evaluation)}</figure>" for evaluation in evaluations]
    for heading, text, columns, rows in tables:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        parts.append(
            f"<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>"
            f"<div class='wide' role='region' aria-label='{html.escape(heading)}' tabindex='0'>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _picture(evaluation: Evaluation) -> str:
    """Reliability and risk-coverage of one set, as inline SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "shopintent"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    figure.suptitle(f"{evaluation.name} ({evaluation.n} messages)")
    left.plot([0, 1], [0, 1], color="#999", linewidth=1, linestyle="--", label="perfect")
    left.plot(
        [c for c, _, _ in evaluation.reliability],
        [a for _, a, _ in evaluation.reliability],
        marker="o",
        label=f"ECE {evaluation.fused.ece:.3f}",
    )
    left.set(xlabel="mean confidence", ylabel="accuracy", title="Reliability, in-scope messages")
    left.legend()
    right.plot([c for c, _ in evaluation.risk], [r for _, r in evaluation.risk])
    right.set(
        xlabel="share answered", ylabel="errors among the answered", title="Risk and coverage"
    )
    right.set_ylim(bottom=0)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
