from __future__ import annotations

import numpy as np

from app.domain import OUT_OF_SCOPE
from training.bitext_baseline import compare
from training.examples import Example


def test_groups_are_counted_apart():
    """Negatives are in no group; intents that Bitext lacks only in those of all."""
    messages = [
        Example("a", "order_status", "en"),
        Example("b", "size_fit", "en"),
        Example("c", "order_status", "hr"),
        Example("d", OUT_OF_SCOPE, "en"),
    ]
    found = compare(np.array(["order_status", "order_status", "invoice", "invoice"]), messages)
    assert {
        name: (row["messages"], row["accuracy"]) for name, row in found.items() if row["messages"]
    } == {
        "all": (3, 0.333),
        "intents of Bitext": (2, 0.5),
        "all, en": (2, 0.5),
        "all, hr": (1, 0.0),
        "intents of Bitext, en": (1, 1.0),
        "intents of Bitext, hr": (1, 0.0),
    }
