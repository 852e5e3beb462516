"""One shop's tuning over a backbone: its models, and what they say of messages they have not seen."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress
from app.classification.cascade import Cascade
from app.classification.decision import Calibration, Evidence
from app.classification.head import Head, unit
from app.classification.ngrams import NgramModel
from app.domain import OUT_OF_SCOPE
from app.errors import InputError
from training.backbones import Backbone
from training.bases import Tokeniser
from training.calibrate import calibrate
from training.cascade import fit_cascade
from training.evaluate import Evaluation, TestSet, evaluate
from training.examples import Example, negative, read_seeds
from training.frozen_head import fit_head
from training.holdout import hold_out
from training.measure import States, prototypes_of
from training.ngram_fit import fit_ngrams, score_all
from training.recipe import Recipe
from training.tuned_files import read_tuned, write_tuned
from training.tuning import Encoded, Tuned, apply_adapter, hidden_states, mean_rows, tune

NEGATIVES = 300
OUT_SHARE = 0.4
"""Assumed for a shop's chat. The one open log of real messages (powerplay11) has 0.72."""
FOLDS = 5
"""Rehearsals of a head on states that stay as they are."""
_WORD = re.compile(r"[^\W\d_]+")
_BEGINS = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a word begins within camelCase."""
_SHORTEST_NAME = 3
"""Letters and spaces; "Q7" is a number, no name."""
UNLIKELY = 0.5
"""A stock negative that the shop's own n-gram model takes for an intent with more than this is left out,
unless that would leave out more than half of them."""


def called(examples: Sequence[Example]) -> list[Example]:
    """The names of the examples' intents in plain words; those that hold no word are left out."""
    intents = sorted({e.intent for e in examples} - {OUT_OF_SCOPE})
    names = [(" ".join(_WORD.findall(_BEGINS.sub(" ", name))).lower(), name) for name in intents]
    return [Example(words, name) for words, name in names if len(words) >= _SHORTEST_NAME]


def stock_negatives(
    examples: Sequence[Example], labels: Sequence[str], languages: Sequence[str], seed: int
) -> list[Example]:
    """Shipped out-of-scope messages, without those that could be one of this shop's intents.

    Raises :class:`app.errors.InputError` where there are none, in languages without any, nor own ones.
    """
    stock = [e for e in read_seeds() if e.intent == OUT_OF_SCOPE and e.language in languages]
    stock = random.Random(seed).sample(stock, min(2 * NEGATIVES, len(stock)))
    inside = [e for e in examples if e.intent != OUT_OF_SCOPE]
    if not stock:
        if len(inside) < len(examples):
            return []
        raise InputError(
            f"there is no stock of out-of-scope messages in {', '.join(languages)}: add some of your "
            f"own, with the intent {OUT_OF_SCOPE}"
        )
    model = fit_ngrams(
        [e.text for e in inside], [labels.index(e.intent) for e in inside], len(labels)
    )
    likely = np.exp(score_all(model, [e.text for e in stock])[0]).max(axis=1)
    # Of two intents one always has a half or more, of a few often: then the less likely half is kept.
    limit = max(UNLIKELY, float(np.median(likely)))
    return [e for e, p in zip(stock, likely, strict=True) if p <= limit][:NEGATIVES]


class Shop:
    """The tuning runs of one shop. The backbone is loaded anew for each: tuning changes it."""

    def __init__(
        self, backbone: Backbone, labels: tuple[str, ...], recipe: Recipe, progress: Progress
    ) -> None:
        self.labels = labels
        self.tokeniser = Tokeniser(backbone.base, backbone.prompt)
        self._backbone = backbone
        self._recipe = recipe
        self._progress = progress
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def ngrams(self, examples: Sequence[Example]) -> NgramModel:
        return fit_ngrams([e.text for e in examples], self._columns(examples), len(self.labels))

    def tuned(
        self,
        examples: Sequence[Example],
        directory: Path,
        step: str,
        stock: Sequence[Example] = (),
    ) -> Tuned:
        """Tune on examples, or fit a head alone, and keep the outcome in ``directory``.

        Tuning learns the ``stock`` of negatives too. A head alone does not: the backbone was taught that
        just these messages are out of scope, so on its states they are no model for what it never saw.
        It learns what the examples' intents are called, as one message more of each.
        """
        if self._recipe.frozen:
            examples = [*examples, *called(examples)]
            states = self.states(examples)
            tuned = Tuned({}, [fit_head(states, self._columns(examples), len(self.labels))])
            write_tuned(directory, tuned)
            return tuned
        examples = [*examples, *stock]
        config = self._recipe.tuning
        prompts = self.tokeniser.prompts([e.text for e in examples])
        columns = self._columns(examples)
        model = self._backbone.model(config.device)
        states = unit(hidden_states(model, prompts, config.device))
        if self._recipe.four_bit:
            del model
            directory.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=directory.parent) as scratch:
                model = self._backbone.four_bit_model(config.device, Path(scratch))
        tuned = tune(
            model,
            [Encoded(p, 0, c) for p, c in zip(prompts, columns, strict=True)],
            [mean_rows(states, columns, len(self.labels))],
            config,
            lambda done, total, loss: self._progress(f"{step} (loss {loss:.2f})", done, total),
        )
        write_tuned(directory, tuned)
        return tuned

    def states(self, examples: Sequence[Example]) -> States:
        """What the base makes of messages (n, hidden); each is computed once."""
        new = list(dict.fromkeys(e.text for e in examples if e.text not in self._known))
        if new:
            device = self._recipe.tuning.device
            self._progress("read messages", 0, len(new))
            found = hidden_states(self._backbone.model(device), self.tokeniser.prompts(new), device)
            self._known |= dict(zip(new, found, strict=True))
        return np.stack([self._known[e.text] for e in examples])

    def evidence(
        self, tuned: Tuned, ngrams: NgramModel, fitted: Sequence[Example], held: Sequence[Example]
    ) -> Evidence:
        """What a rehearsal's models say of held-out messages; intents it never saw are ruled out."""
        if tuned.adapter:
            device = self._recipe.tuning.device
            model = self._backbone.model(device)
            apply_adapter(model, tuned.adapter)
            states = hidden_states(model, self.tokeniser.prompts([e.text for e in held]), device)
            known = hidden_states(model, self.tokeniser.prompts([e.text for e in fitted]), device)
        else:
            states, known = self.states(held), self.states(fitted)
        prototypes = prototypes_of(known, [e.intent for e in fitted], self.labels)
        direction = unit(states) / np.float32(np.sqrt(states.shape[1]))
        lm = Head(*tuned.heads[0]).score(states)
        absent = sorted(set(range(len(self.labels))) - set(self._columns(fitted)))
        lm[:, absent] = -20.0
        scores, known_share = score_all(ngrams, [e.text for e in held])
        return Evidence(lm, scores, (direction @ prototypes.T).max(axis=1), known_share)

    def _columns(self, examples: Sequence[Example]) -> list[int]:
        places = {label: column for column, label in enumerate(self.labels)}
        return [places[e.intent] for e in examples]


@dataclass(frozen=True, slots=True)
class _Fold:
    """What one rehearsal is fitted on, and what it is asked then."""

    fitted: tuple[Example, ...]
    stock: tuple[Example, ...]
    unseen: tuple[Example, ...]


class Rehearsal:
    """A shop fitted without some of its messages and intents, which then stand for what customers ask.

    Where fitting takes seconds it is done several times, each without others. Fusion and threshold are
    fitted on the same messages that are reported, so those figures are a little kind.
    """

    def __init__(
        self,
        shop: Shop,
        rows: Sequence[Example],
        held: Sequence[Example],
        negatives: Sequence[Example],
        seed: int,
        folds: int = 1,
    ) -> None:
        self._shop = shop
        self._folds = []
        cut = len(negatives) // 3
        for number in range(folds):
            split = hold_out(rows, seed + number)
            turned = random.Random(seed + number).sample(negatives, len(negatives))
            turned = list(negatives) if number == 0 else turned
            self._folds.append(
                _Fold(split.fit, tuple(turned[cut:]), (*split.held, *turned[:cut], *held))
            )

    def tune(self, directory: Path) -> None:
        for number, fold in enumerate(self._folds):
            self._shop.tuned(fold.fitted, directory / str(number), "rehearse", fold.stock)

    def calibrate(self, directory: Path) -> tuple[Calibration, Cascade, Evaluation]:
        """Calibration and cascade from the unseen messages, and how the rehearsal's models did on them."""
        shop = self._shop
        parts: list[Evidence] = []
        judged: list[Example] = []
        for number, fold in enumerate(self._folds):
            tuned = read_tuned(directory / str(number))
            assert tuned is not None
            fitted = (*fold.fitted, *fold.stock)
            parts.append(shop.evidence(tuned, shop.ngrams(fitted), fitted, fold.unseen))
            seen = {e.intent for e in fitted}
            judged += [e if e.intent in seen else negative(e) for e in fold.unseen]
        evidence = _joined(parts)
        places = {label: column for column, label in enumerate(shop.labels)}
        truth = np.array([places[e.intent] for e in judged], dtype=np.int64)
        out = places[OUT_OF_SCOPE]
        calibration = calibrate(evidence, truth, out, OUT_SHARE)
        cascade = fit_cascade(evidence, truth, out, calibration, OUT_SHARE)
        test = TestSet("rehearsal", judged)
        found = evaluate(test, evidence, shop.labels, calibration, cascade)
        return calibration, cascade, found


def _joined(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Evidence))
    )
