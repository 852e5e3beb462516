"""The floor: TF-IDF with logistic regression, trained on Bitext, on messages that shoppers would type.

    python -m training.bitext_baseline --data DIR

Beside it stands our n-gram model, fitted on the seeds' train split and on nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from app.domain import OUT_OF_SCOPE
from training.examples import (
    LANGUAGES,
    WILD,
    Example,
    labels_of,
    read_labelled,
    read_seeds,
    take_split,
)
from training.metrics import wilson
from training.ngram_fit import fit_ngrams, score_all
from training.noise import expand
from training.opensets import BITEXT_TO_STOREFRONT, bitext

SEED = 20
COPIES = 2
INVERSE_REGULARISATION = 20.0

Answers = npt.NDArray[np.str_]
Figures = dict[str, dict[str, float | int]]


def bitext_answers(data: Path, messages: Sequence[Example]) -> Answers:
    """In the storefront's words: word 1-2-grams and ``char_wb`` 2-5-grams, C=20."""
    train = bitext(data, "train")
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2)),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)),
    )
    model = make_pipeline(features, LogisticRegression(C=INVERSE_REGULARISATION, max_iter=300))
    model.fit([row.text for row in train], [BITEXT_TO_STOREFRONT[row.intent] for row in train])
    answers: Answers = model.predict([message.text for message in messages])
    return answers


def seed_answers(messages: Sequence[Example]) -> Answers:
    """Best intent by the n-gram half alone, from our train split with slot swaps and noise."""
    train = expand(take_split(read_seeds(), "train"), COPIES, SEED)
    labels = labels_of(train)
    columns = {label: column for column, label in enumerate(labels)}
    model = fit_ngrams([e.text for e in train], [columns[e.intent] for e in train], len(labels))
    scores, _ = score_all(model, [message.text for message in messages])
    chosen: npt.NDArray[np.str_] = np.array(labels[:-1])[scores[:, :-1].argmax(axis=1)]
    return chosen


def compare(answers: Answers, messages: Sequence[Example]) -> Figures:
    """Accuracy with its 95% interval on in-scope messages: all, by language, and Bitext's intents."""
    covered = set(BITEXT_TO_STOREFRONT.values())
    truth = np.array([message.intent for message in messages])
    language = np.array([message.language for message in messages])
    within = np.isin(truth, sorted(covered))
    inside = truth != OUT_OF_SCOPE
    groups = {"all": inside, "intents of Bitext": within}
    groups |= {f"all, {name}": inside & (language == name) for name in LANGUAGES}
    groups |= {f"intents of Bitext, {name}": within & (language == name) for name in LANGUAGES}
    figures: Figures = {}
    for name, rows in groups.items():
        found = wilson(int((answers[rows] == truth[rows]).sum()), int(rows.sum()))
        figures[name] = {
            "messages": found.n,
            "accuracy": round(found.value, 3),
            "low": round(found.low, 3),
            "high": round(found.high, 3),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    data = parser.parse_args().data
    wild = read_labelled(WILD, "wild")
    own = [replace(r, intent=BITEXT_TO_STOREFRONT[r.intent]) for r in bitext(data, "test")]
    messages = [*wild, *own]
    models = {
        "bitext baseline": bitext_answers(data, messages),
        "n-grams on the seeds": seed_answers(messages),
    }
    found = {
        name: {
            "wild": compare(answers[: len(wild)], wild),
            "bitext test": compare(answers[len(wild) :], own)["all"],
        }
        for name, answers in models.items()
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
