"""The whole recipe on a tiny Llama: every step, its outputs, and what a second call does."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("llama_cpp")

import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from app.artifacts.adapter_file import read_adapter
from app.artifacts.base_package import silent
from app.artifacts.manifest import BaseFile
from app.artifacts.store import Store
from app.backends.base import BackendOptions
from app.backends.gguf_weights import build_weights
from app.classification.loading import load_classifier
from app.errors import InputError, WeightsNotBuilt
from tests.training.tiny_checkpoints import HIDDEN, write_tiny_llama
from training import fit as steps
from training import shop
from training.__main__ import app as commands
from training.recipe import Recipe
from training.run_commands import published_by
from training.runs import Run

pytestmark = [
    pytest.mark.train,
    # peft asks transformers by an old name; neither is ours.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

WISHES = {
    "returns": "send {} back, it does not fit",
    "delivery": "when will {} come to my door",
    "stock": "do you have {} in blue",
}
THINGS = [
    *("shoes", "a lamp", "the red scarf", "my jacket", "two mugs", "this chair", "a kettle"),
    *("gloves", "the phone", "a tent", "socks", "the big sofa"),
]


def write_csv(path: Path, things: list[str], wishes: dict[str, str] = WISHES) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "intent"])
        rows.writerows([text.format(t), intent] for intent, text in wishes.items() for t in things)
    return path


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """One thread, and few stock negatives: these tests are about the steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop, "NEGATIVES", 30)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shop_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows, test rows, a tiny Llama and an empty store."""
    root = tmp_path_factory.mktemp("shop")
    write_csv(root / "train.csv", THINGS[:9])
    write_csv(root / "test.csv", THINGS[9:])
    write_tiny_llama(root / "tiny-llama")
    (root / "store").mkdir()
    return root


def recipe_for(root: Path, **tuning: object) -> Recipe:
    recipe = Recipe(base=str(root / "tiny-llama"))
    knobs = {"epochs": 3.0, "rank": 4, "alpha": 8.0, "batch_size": 8}
    return replace(recipe, tuning=replace(recipe.tuning, **knobs | tuning))


def prepare(
    run: Run,
    root: Path,
    recipe: Recipe,
    train: str = "train.csv",
    test: str = "test.csv",
    name: str = "my-shop",
) -> tuple[str, ...]:
    return steps.prepare(
        run,
        train=root / train,
        dev=None,
        tests=[root / test],
        name=name,
        store=root / "store",
        languages=("en",),
        recipe=recipe,
        progress=silent,
    )


@pytest.fixture(scope="module")
def fitted(shop_files: Path, quick: None) -> Run:
    """A run in which every step has been done once."""
    run = Run(shop_files / "run")
    prepare(run, shop_files, recipe_for(shop_files))
    steps.fit(run, 1, silent)
    return run


def test_every_step_leaves_a_named_output(fitted: Run):
    """And a record with its time and memory."""
    for name in (
        *("run.json", "prepare/train.jsonl", "prepare/tests/1-test.jsonl"),
        *("rehearsal/0/heads.safetensors", "final/adapter.safetensors", "merged/config.json"),
        *("artifact/weights/model-iq4_nl.gguf", "calibration/calibration.json"),
        *("evaluation/comparison.json", "published.json"),
    ):
        assert (fitted / name).is_file(), name
    assert list(fitted.records()) == [
        *("prepare", "rehearse", "tune", "merge", "quantise", "calibrate", "evaluate", "publish")
    ]


def test_the_version_is_served(fitted: Run, shop_files: Path):
    """Its weights come from a base of the store, and its golden answers come out again."""
    artifact = Store(shop_files / "store").resolve("my-shop")
    recipe = artifact.recipe()
    assert isinstance(recipe.base, BaseFile)
    assert recipe.base.source == "tiny-llama"
    classifier = load_classifier(artifact, BackendOptions(threads=1))
    answer = classifier.classify([classifier.prepare("when will my parcel come")])[0]
    classifier.close()
    assert {score.intent for score in answer.ranking} == set(WISHES)


def test_only_the_upper_layers_were_tuned(fitted: Run):
    """Two thirds of three layers stay as they are."""
    spec = json.loads((fitted / "run.json").read_text())
    assert spec["recipe"]["tuning"]["first_layer"] == 2
    names = load_file(fitted / "final" / "adapter.safetensors")
    assert {name.split(".")[1] for name in names} == {"2"}


def test_the_adapter_is_laid_out_for_the_gguf_file(fitted: Run):
    """The rows of a query's factor change places on the way into the artifact, those of a value do not."""
    tuned = read_adapter(fitted / "final" / "adapter.safetensors")
    kept = read_adapter(fitted / "artifact" / "adapter-1.safetensors")

    def changes(name: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Of the weights, before and after, and what 8 bits may cost."""
        before, after = (b @ a for a, b in (tuned[name], kept[name]))
        return before, after, 0.03 * np.abs(before).max()

    before, after, little = changes("blk.2.attn_v.weight")
    np.testing.assert_allclose(after, before, atol=little)
    before, after, little = changes("blk.2.attn_q.weight")
    assert np.abs(after - before).max() > 10 * little
    np.testing.assert_allclose(np.sort(after, axis=0), np.sort(before, axis=0), atol=little)


def test_the_built_weights_say_what_the_merged_ones_say(fitted: Run):
    """Rows in a wrong order would give other states; four bits give nearly the same."""
    compared = json.loads((fitted / "evaluation" / "comparison.json").read_text())
    assert compared["rows"] == "test and dev messages"
    assert compared["n"] == 9
    assert compared["mean_cosine"] > 0.95  # Q8_0, below, keeps 0.999
    assert compared["agreement"]["value"] >= 8 / 9


def test_the_report_tells_how_it_was_made(fitted: Run, shop_files: Path):
    """Time and memory of the steps, quantised against unquantised, intents, coverage, and the knobs."""
    directory = Store(shop_files / "store").resolve("my-shop").directory
    report = (directory / "report.md").read_text()
    for heading in (
        *("## Making it", "## Quantised against unquantised", "## test: by intent"),
        *("## test: coverage and risk", "## Recipe", "## test: confusions"),
    ):
        assert heading in report
        assert f"<h2>{heading[3:]}</h2>" in (directory / "report.html").read_text()
    content = json.loads((directory / "report.json").read_text())
    assert content["making"]["steps"]["tune"]["seconds"] > 0
    assert content["making"]["recipe"]["tuning"]["rank"] == 4
    assert str(shop_files) not in json.dumps(content["trained_on"])


def test_a_second_time_nothing_is_done(fitted: Run, shop_files: Path):
    """Not even a second version: the same run is published once."""
    before = {path: path.stat().st_mtime_ns for path in fitted.directory.rglob("*")}
    prepare(fitted, shop_files, recipe_for(shop_files))
    artifact = steps.fit(fitted, 1, silent)
    assert artifact.label == "my-shop/1"
    assert Store(shop_files / "store").versions("my-shop") == ("1",)
    after = {path: path.stat().st_mtime_ns for path in fitted.directory.rglob("*")}
    assert after == before


def test_another_quantisation_redoes_only_what_stands_on_it(
    fitted: Run, shop_files: Path, tmp_path: Path
):
    """The tuning stays; weights, evaluation and version are new."""
    run = Run(tmp_path / "run")
    shutil.copytree(fitted.directory, run.directory)
    tuned = run.require("tune")
    steps.quantise(run, 1, silent, "Q8_0")
    assert run.require("tune") == tuned
    assert (run / "artifact" / "weights" / "model-q8_0.gguf").is_file()
    with pytest.raises(InputError, match="training evaluate"):
        steps.publish(run, 1, silent)  # the report would be that of the weights before
    steps.evaluate(run, 1, silent)
    compared = json.loads((run / "evaluation" / "comparison.json").read_text())
    assert compared["mean_cosine"] > 0.999
    artifact = steps.publish(run, 1, silent)
    assert artifact.label == "my-shop/2"
    assert artifact.recipe().quantisation == "Q8_0"
    shutil.rmtree(artifact.directory)


def test_a_version_that_has_gone_from_the_store_is_published_again(
    fitted: Run, shop_files: Path, tmp_path: Path
):
    """Also where it was the only one; and one of another run under its number is not taken for its own."""
    run, other = Run(tmp_path / "run"), Run(tmp_path / "other")
    for copy in (run, other):
        shutil.copytree(fitted.directory, copy.directory)
    steps.quantise(other, 1, silent, "Q8_0")
    steps.evaluate(other, 1, silent)
    versions = shop_files / "store" / "my-shop"
    versions.rename(tmp_path / "away")
    try:
        assert steps.publish(run, 1, silent).label == "my-shop/1"
        shutil.rmtree(versions)
        assert steps.publish(other, 1, silent).label == "my-shop/1"
        with pytest.raises(InputError, match="training publish"):
            published_by(run.directory)
        assert steps.publish(run, 1, silent).label == "my-shop/2"
        assert steps.publish(run, 1, silent).label == "my-shop/2"
        assert published_by(run.directory)[1] == "2"
    finally:
        shutil.rmtree(versions, ignore_errors=True)
        (tmp_path / "away").rename(versions)


def test_the_steps_one_by_one_are_commands(fitted: Run, tmp_path: Path):
    """Each finds its work done, and says how long it took."""
    run = tmp_path / "run"
    shutil.copytree(fitted.directory, run)
    for command in ("tune", "merge", "quantise", "calibrate", "evaluate", "publish"):
        done = CliRunner().invoke(commands, [command, "--run", str(run), "--threads", "1"])
        assert done.exit_code == 0, done.output
    assert "published my-shop/1" in done.output


def test_a_step_out_of_order_says_what_comes_first(tmp_path: Path):
    """No traceback, and the command to run."""
    with pytest.raises(InputError, match="training prepare"):
        steps.tune(Run(tmp_path), silent)


def test_a_killed_rehearsal_is_not_done_again(shop_files: Path, tmp_path: Path):
    """A run that was stopped while it tuned the version itself goes on from there."""
    run = Run(tmp_path / "run")
    prepare(run, shop_files, recipe_for(shop_files, epochs=1.0))

    def stop(step: str, done: int, total: int) -> None:
        if step.startswith("tune") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.tune(run, stop)
    rehearsed = run.require("rehearse")
    said: list[str] = []
    steps.tune(run, lambda step, _done, _total: said.append(step))
    assert run.require("rehearse") == rehearsed
    assert not any(step.startswith("rehearse") for step in said)


def test_a_missing_base_is_told_and_can_be_made_again(fitted: Run, shop_files: Path):
    """A copied artifact without its base file: which one, from what, and how to get it."""
    store = shop_files / "store"
    artifact = Store(store).resolve("my-shop")
    base = artifact.recipe().base
    assert isinstance(base, BaseFile)
    shutil.rmtree(artifact.weights_directory)
    (store / base.path).unlink()
    with pytest.raises(WeightsNotBuilt, match=f"made from tiny-llama.*{base.sha256}"):
        build_weights(artifact)
    made = CliRunner().invoke(
        commands, ["base", str(shop_files / "tiny-llama"), "--store", str(store)]
    )
    assert made.exit_code == 0, made.output
    assert build_weights(artifact).is_file()


def test_a_name_that_cannot_be_served_is_refused_at_once(shop_files: Path, tmp_path: Path):
    """Before any long work."""
    with pytest.raises(InputError, match="small letters"):
        steps.prepare(
            Run(tmp_path),
            train=shop_files / "train.csv",
            dev=None,
            tests=[],
            name="My Shop",
            store=shop_files / "store",
            languages=("en",),
            recipe=recipe_for(shop_files),
            progress=silent,
        )


@pytest.mark.parametrize("changed", ["train", "test"])
def test_files_of_one_name_are_told_apart(shop_files: Path, tmp_path: Path, changed: str):
    """A change of either is seen when the run is prepared again."""
    names = [f"{tmp_path.name}-{part}/messages.csv" for part in ("train", "test")]
    train, test = (shop_files / name for name in names)
    write_csv(train, THINGS[:8])
    write_csv(test, THINGS[8:])
    run = Run(tmp_path / "run")
    prepare(run, shop_files, recipe_for(shop_files), *names)
    before = run.require("prepare")
    prepare(run, shop_files, recipe_for(shop_files), *names)
    assert run.require("prepare") == before
    write_csv(train if changed == "train" else test, THINGS)
    prepare(run, shop_files, recipe_for(shop_files), *names)
    rows = run / "prepare" / ("train.jsonl" if changed == "train" else "tests/1-messages.jsonl")
    assert len(rows.read_text().splitlines()) == len(WISHES) * len(THINGS)


def test_two_intents_are_enough(shop_files: Path, tmp_path: Path):
    """They get their stock of negatives, and a version that can be served."""
    two = {intent: WISHES[intent] for intent in ("returns", "stock")}
    write_csv(shop_files / "two.csv", THINGS[:9], two)
    write_csv(shop_files / "two-test.csv", THINGS[9:], two)
    run = Run(tmp_path / "run")
    recipe = replace(recipe_for(shop_files), tune="never")
    prepare(run, shop_files, recipe, "two.csv", "two-test.csv", "two")
    assert len((run / "prepare" / "negatives.jsonl").read_text().splitlines()) == shop.NEGATIVES
    assert set(steps.fit(run, 1, silent).manifest.intents) == {*two, "out_of_scope"}


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit:UserWarning")
def test_qlora_tunes_on_four_bit_weights(shop_files: Path, tmp_path: Path):
    """NF4 through the same steps; what is merged and served is the unquantised base and the adapter."""
    pytest.importorskip("bitsandbytes")
    run = Run(tmp_path / "run")
    prepare(run, shop_files, replace(recipe_for(shop_files, epochs=1.0), precision="nf4"))
    steps.tune(run, silent)
    adapter = load_file(run / "final" / "adapter.safetensors")
    assert adapter["blk.2.ffn_up.weight.lora_a"].shape == (4, HIDDEN)
    assert any(factor.any() for name, factor in adapter.items() if name.endswith("lora_b"))
    steps.merge(run, silent)
    assert "quantization_config" not in json.loads((run / "merged" / "config.json").read_text())
