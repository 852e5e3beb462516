"""`fit`: a shop's own CSV to a published, calibrated, evaluated version.

The shop starts from the storefront backbone: weights that already read messages as wishes. Only the
upper layers are tuned, so each message passes the lower ones once. A rehearsal on held-out messages
and held-out intents fixes fusion, scope gate and threshold; the published model then learns from all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress
from app.artifacts.manifest import Label
from app.artifacts.store import Artifact, Store
from app.backends.gguf_importance import read_importance
from app.classification.decision import Calibration, Evidence
from app.classification.head import Head, unit
from app.classification.ngrams import NgramModel
from app.classification.prompt import Prompt
from app.domain import OUT_OF_SCOPE
from app.errors import InputError
from training.adapter_files import Adapter, read_adapter
from training.bases import (
    DEFAULT_QUANTISATION,
    GEMMA_3_270M,
    Base,
    Tokeniser,
    load_model,
    packaged_base,
)
from training.calibrate import calibrate
from training.evaluate import Evaluation, TestSet, evaluate
from training.examples import Example, labels_of, negative, read_seeds
from training.holdout import hold_out
from training.ngram_fit import fit_ngrams, score_all
from training.publish import Draft, prototypes_of, publish
from training.shop_csv import ShopRows, read_shop_csv, require_trainable
from training.tuned_files import read_tuned, write_tuned
from training.tuning import (
    Encoded,
    Tuned,
    TuningConfig,
    apply_adapter,
    hidden_states,
    mean_rows,
    tune,
)

BACKBONE = "storefront"
PACKAGED = "gemma-3-270m"
NEGATIVES = 300
OUT_SHARE = 0.4
"""Assumed for a shop's chat. The one open log of real messages (powerplay11) has 0.72."""
UNLIKELY = 0.5
"""A stock negative that the shop's own n-gram model takes for an intent with more than this is left out."""

TUNING = TuningConfig(
    rank=16,
    alpha=32.0,
    learning_rate=5e-4,
    epochs=8.0,
    batch_size=16,
    ema=0.98,
    first_layer=12,
)


@dataclass(frozen=True, slots=True)
class Backbone:
    """Where a shop starts: base, the adapters upon it, and what the artifact says of them."""

    base: Base
    digest: str
    """Equal digests, equal weights: what an interrupted run may be resumed by."""
    adapters: tuple[Adapter, ...]
    prompt: Prompt
    quantisation: str
    importance: Mapping[str, npt.NDArray[np.float32]] | None
    """Of the backbone's columns; a shop's adapter does not move it enough to measure again."""
    notices: tuple[Path, ...]


def storefront_backbone(store: Path, progress: Progress) -> Backbone:
    """The default artifact's weights. Raises :class:`app.errors.ArtifactError` without one."""
    artifact = Store(store).resolve(BACKBONE)
    recipe = artifact.recipe()
    return Backbone(
        base=packaged_base(store / ".cache", progress),
        digest=artifact.recipe_digest(),
        adapters=tuple(read_adapter(artifact.directory / path) for path in recipe.adapters),
        prompt=Prompt(artifact.manifest.prompt.prefix, artifact.manifest.prompt.suffix),
        quantisation=recipe.quantisation,
        importance=(
            read_importance(artifact.directory / recipe.importance) if recipe.importance else None
        ),
        notices=tuple(artifact.directory / notice for notice in artifact.manifest.notices),
    )


def find_backbone(base: str, store: Path, progress: Progress) -> Backbone:
    """``storefront``, the bare packaged ``gemma-3-270m``, or a directory or hub id of a causal LM."""
    if base == BACKBONE:
        return storefront_backbone(store, progress)
    if base == PACKAGED:
        notices = sorted(store.glob("*[Gg][Ee][Mm][Mm][Aa]*.md"))
        return Backbone(
            packaged_base(store / ".cache", progress),
            GEMMA_3_270M.sha256,
            (),
            Prompt(),
            DEFAULT_QUANTISATION,
            None,
            tuple(notices),
        )
    raise InputError(
        f"base {base!r} is not known: use {BACKBONE!r} or {PACKAGED!r}. "
        "Other causal language models cannot be published yet."
    )


def fit(
    train: Path,
    dev: Path | None,
    name: str,
    backbone: Backbone,
    store: Path,
    run: Path,
    tuning: TuningConfig,
    languages: Sequence[str],
    threads: int,
    progress: Progress,
    tests: Sequence[Path] = (),
) -> Artifact:
    """Everything from CSV to manifest. ``run`` keeps finished steps, so that a killed fit resumes."""
    rows, held, reported = read_inputs(train, dev, tests)
    labels = labels_of(rows.examples)
    negatives = stock_negatives(rows.examples, labels, languages, tuning.seed)
    shop = _Shop(backbone, labels, tuning, progress)
    everything = [*rows.examples, *negatives]
    calibration, rehearsal = _rehearse(shop, rows, held, negatives, run)
    tuned = shop.tuned(everything, run / "final", "tune")
    draft = Draft(
        name=name,
        labels=tuple(Label(intent=label) for label in labels),
        head=Head(*tuned.heads[0]),
        ngrams=shop.ngrams(everything),
        adapters=[*backbone.adapters, tuned.adapter],
        base=backbone.base,
        prompt=backbone.prompt,
        quantisation=backbone.quantisation,
        importance=backbone.importance,
        languages=tuple(languages),
        trained_on=(train.name, "storefront stock of negatives (this project)"),
        notices=backbone.notices,
    )
    return publish(
        draft,
        store,
        prototypes_from=[e for e in rows.examples if e.intent != OUT_OF_SCOPE],
        held_out=calibration,
        test_sets=reported,
        rehearsed=[rehearsal],
        golden=_golden(rows.examples, tuning.seed),
        threads=threads,
        progress=progress,
    )


def read_inputs(
    train: Path, dev: Path | None, tests: Sequence[Path]
) -> tuple[ShopRows, tuple[Example, ...], list[TestSet]]:
    """All files read and checked before any long work."""
    rows = read_shop_csv(train)
    require_trainable(rows, train)
    known = frozenset(example.intent for example in rows.examples)
    held = read_shop_csv(dev, known).examples if dev else ()
    if dev and len({e.intent for e in held} - {OUT_OF_SCOPE}) < 2:
        raise InputError(f"{dev.name}: a dev file needs messages of at least two intents")
    reported = [
        TestSet(path.stem, read_shop_csv(path, known, repeated_count=True).examples)
        for path in tests
    ]
    if held:
        reported.insert(0, TestSet("dev", held))
    return rows, held, reported


def stock_negatives(
    examples: Sequence[Example], labels: Sequence[str], languages: Sequence[str], seed: int
) -> list[Example]:
    """Shipped out-of-scope messages, without those that could be one of this shop's intents."""
    stock = [e for e in read_seeds() if e.intent == OUT_OF_SCOPE and e.language in languages]
    stock = random.Random(seed).sample(stock, min(2 * NEGATIVES, len(stock)))
    inside = [e for e in examples if e.intent != OUT_OF_SCOPE]
    model = fit_ngrams(
        [e.text for e in inside], [labels.index(e.intent) for e in inside], len(labels)
    )
    likely = np.exp(score_all(model, [e.text for e in stock])[0]).max(axis=1)
    return [e for e, p in zip(stock, likely, strict=True) if p < UNLIKELY][:NEGATIVES]


class _Shop:
    """One shop's tuning runs over a backbone that is loaded once a run."""

    def __init__(
        self, backbone: Backbone, labels: tuple[str, ...], config: TuningConfig, progress: Progress
    ) -> None:
        self.labels = labels
        self.tokeniser = Tokeniser(backbone.base, backbone.prompt)
        self._backbone = backbone
        self.config = config
        self._progress = progress

    def ngrams(self, examples: Sequence[Example]) -> NgramModel:
        return fit_ngrams([e.text for e in examples], self._columns(examples), len(self.labels))

    def model(self) -> Any:
        """The backbone, its adapters merged."""
        model = load_model(self._backbone.base, self.config.device)
        for adapter in self._backbone.adapters:
            apply_adapter(model, adapter)
        return model

    def tuned(self, examples: Sequence[Example], directory: Path, step: str) -> Tuned:
        """Tune on examples, or take what an interrupted run finished."""
        done = read_tuned(directory)
        if done is not None:
            return done
        model = self.model()
        prompts = self.tokeniser.prompts([e.text for e in examples])
        columns = self._columns(examples)
        states = unit(hidden_states(model, prompts, self.config.device))
        tuned = tune(
            model,
            [Encoded(p, 0, c) for p, c in zip(prompts, columns, strict=True)],
            [mean_rows(states, columns, len(self.labels))],
            self.config,
            lambda done, total, loss: self._progress(f"{step} (loss {loss:.2f})", done, total),
        )
        write_tuned(directory, tuned)
        return tuned

    def evidence(
        self, tuned: Tuned, ngrams: NgramModel, fitted: Sequence[Example], held: Sequence[Example]
    ) -> Evidence:
        """What a rehearsal's models say of held-out messages; intents it never saw are ruled out."""
        model = self.model()
        apply_adapter(model, tuned.adapter)
        device = self.config.device
        states = hidden_states(model, self.tokeniser.prompts([e.text for e in held]), device)
        known = hidden_states(model, self.tokeniser.prompts([e.text for e in fitted]), device)
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


def _rehearse(
    shop: _Shop,
    rows: ShopRows,
    held: Sequence[Example],
    negatives: Sequence[Example],
    run: Path,
) -> tuple[Calibration, Evaluation]:
    """Calibration from messages that the rehearsal's models have not seen, and how they did on them.

    Fusion and threshold were fitted on the same messages, so the figures are a little kind.
    """
    split = hold_out(rows.examples, shop.config.seed)
    cut = len(negatives) // 3
    fitted = [*split.fit, *negatives[cut:]]
    unseen = [*split.held, *negatives[:cut], *held]
    tuned = shop.tuned(fitted, run / "rehearsal", "rehearse")
    evidence = shop.evidence(tuned, shop.ngrams(fitted), fitted, unseen)
    seen = {e.intent for e in fitted}
    judged = [e if e.intent in seen else negative(e) for e in unseen]
    places = {label: column for column, label in enumerate(shop.labels)}
    truth = np.array([places[e.intent] for e in judged], dtype=np.int64)
    calibration = calibrate(evidence, truth, places[OUT_OF_SCOPE], out_share=OUT_SHARE)
    return calibration, evaluate(TestSet("rehearsal", judged), evidence, shop.labels, calibration)


def _golden(examples: Sequence[Example], seed: int) -> list[str]:
    """A few training messages, one an intent, whose answers every load must reproduce."""
    by_intent = {example.intent: example.text for example in examples}
    intents = random.Random(seed).sample(sorted(by_intent), min(6, len(by_intent)))
    return [by_intent[intent] for intent in intents]


def with_overrides(device: str, seed: int, epochs: float | None) -> TuningConfig:
    """The recipe's knobs with what the command line changes."""
    config = replace(TUNING, device=device, seed=seed)
    return replace(config, epochs=epochs) if epochs else config
