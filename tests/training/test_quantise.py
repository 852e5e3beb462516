"""From a published version to its GPTQ checkpoint, on a small random Gemma."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
torch = pytest.importorskip("torch")
recipe = pytest.importorskip("training.quantise")

from transformers import AutoTokenizer  # noqa: E402

from app.artifacts.checkpoints import verified_checkpoint  # noqa: E402
from app.artifacts.store import Artifact  # noqa: E402
from app.backends.gguf_file import GgufFile  # noqa: E402
from app.backends.gptq import read_tokeniser  # noqa: E402
from app.backends.gptq_checkpoint import Checkpoint  # noqa: E402
from app.backends.llama_context import LlamaModel  # noqa: E402
from app.errors import GoldenMismatch, InputError  # noqa: E402
from tests.backends.tiny_intents import write_tiny_intents  # noqa: E402
from tests.fake_artifact import EXAMPLES  # noqa: E402
from training.examples import Example  # noqa: E402
from training.gptq import GptqConfig  # noqa: E402

MESSAGES = [Example(text, intent) for intent, texts in EXAMPLES.items() for text in texts]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.set_num_threads(1)
    return write_tiny_intents(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def made(artifact: Artifact) -> tuple[Path, object]:
    comparison = recipe.quantise_artifact(artifact, MESSAGES, MESSAGES, GptqConfig(), threads=1)
    return verified_checkpoint(artifact), comparison


def test_what_it_costs_is_measured_and_kept(made):
    """8 bits change none of these answers; the figures lie in the checkpoint, for whoever serves it."""
    checkpoint, comparison = made
    assert (comparison.agreement, comparison.model_agreement) == (1.0, 1.0)
    assert comparison.accuracy == comparison.merged_accuracy == 1.0
    assert comparison.bytes < comparison.merged_bytes
    kept = json.loads((checkpoint / "evaluation.json").read_text())
    assert kept["against_merged_bfloat16"]["agreement"] == 1.0
    assert (kept["config"]["bits"], kept["config"]["messages"]) == (8, len(MESSAGES))


def test_nothing_but_the_checkpoint_stays_behind(artifact: Artifact, made):
    """No merged weights, no logs, neither here nor where it was run."""
    assert not list(artifact.weights_directory.glob("quantise-*"))
    assert {path.name for path in made[0].iterdir()} == {
        "build.json",
        "config.json",
        "evaluation.json",
        "model.safetensors",
        "quantize_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_cpus_numbers_are_repacked(artifact: Artifact, made, tmp_path: Path):
    """They answer as the GGUF weights do, and are laid out as any other checkpoint."""
    config = GptqConfig(repacked=True)
    out = tmp_path / "repacked"
    comparison = recipe.quantise_artifact(artifact, [], MESSAGES, config, threads=1, out=out)
    assert comparison.gguf_agreement == 1.0
    kept = json.loads((out / "evaluation.json").read_text())
    told = [kept["config"][key] for key in ("repacked", "group_size", "messages", "carts")]
    assert told == [True, 32, 0, 0]
    build = {"build.json"}
    assert {path.name for path in out.iterdir()} | build == {p.name for p in made[0].iterdir()}
    for other in ({"bits": 4}, {"group_size": 64}, {"desc_act": True}, {"plain": ("v_proj",)}):
        refused = GptqConfig(repacked=True, **other)
        with pytest.raises(InputError, match="in 8 bits"):
            recipe.quantise_artifact(artifact, [], [], refused, threads=1)


def test_pieces_that_the_cpus_weights_leave_out_are_left_out(tmp_path: Path):
    """The table has the rows of the GGUF weights, and texts are split into the same pieces."""
    artifact = write_tiny_intents(tmp_path / "store", left_out="eé")
    out = tmp_path / "repacked"
    config = GptqConfig(repacked=True)
    comparison = recipe.quantise_artifact(artifact, [], MESSAGES, config, threads=1, out=out)
    assert comparison.gguf_agreement == 1.0
    gguf = LlamaModel(artifact.weights_path(), vocabulary_only=True)
    tensors, _ = Checkpoint(out).read()
    whole = GgufFile(artifact.directory.parent.parent / "base.gguf").tensors["token_embd.weight"]
    kept = GgufFile(artifact.weights_path()).tensors["token_embd.weight"]
    assert len(tensors["embed_tokens.weight"]) == kept.rows < whole.rows
    assert len(AutoTokenizer.from_pretrained(out)) <= kept.rows  # none is added beyond the table
    tokeniser, beginning = read_tokeniser(out)
    assert beginning == gguf.beginning()
    texts = [text for texts in EXAMPLES.values() for text in texts]
    for text in (*texts, "été 👍🏽 <bos> where<unk> 日本\n\n  e", "Čekam paket", "\u0000\u200b"):
        assert list(gguf.tokenise(text)) == tokeniser.encode(text, add_special_tokens=False).ids


def test_a_run_that_breaks_off_leaves_the_older_checkpoint(
    artifact: Artifact, made, monkeypatch: pytest.MonkeyPatch
):
    """What is served stays whole until the new one is."""

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "compare", broken)
    monkeypatch.setattr(recipe, "quantise", lambda *_: None)
    monkeypatch.setattr(recipe, "gives_goldens", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        recipe.quantise_artifact(artifact, MESSAGES, MESSAGES, GptqConfig(), threads=1)
    assert verified_checkpoint(artifact) == made[0]
    assert not list(artifact.weights_directory.glob("quantise-*"))


def test_weights_that_the_service_would_refuse_are_not_installed(artifact: Artifact, made):
    """Told after minutes here, with what to try, and not by every start of the service from then on."""
    first, second, *_ = artifact.manifest.golden
    other = first.model_copy(update={"intent": second.intent})
    strict = Artifact(artifact.directory, artifact.manifest.model_copy(update={"golden": (other,)}))
    before = {path.name: path.read_bytes() for path in made[0].iterdir()}
    with pytest.raises(GoldenMismatch, match=r"refuse 8-bit weights .* --out"):
        recipe.quantise_artifact(strict, MESSAGES, MESSAGES, GptqConfig(), threads=1)
    kept = {path.name: path.read_bytes() for path in verified_checkpoint(artifact).iterdir()}
    assert kept == before


def test_inputs_are_checked_before_any_work(artifact: Artifact, tmp_path: Path):
    """Bits that are not offered, and a place that is taken."""
    with pytest.raises(InputError, match="5 bits"):
        recipe.quantise_artifact(artifact, MESSAGES, MESSAGES, GptqConfig(bits=5), threads=1)
    with pytest.raises(InputError, match="there already"):
        recipe.quantise_artifact(
            artifact, MESSAGES, MESSAGES, GptqConfig(), threads=1, out=tmp_path
        )


def test_a_shops_own_messages_may_be_given(tmp_path: Path):
    """CSV files for both; without them, our seeds."""
    path = tmp_path / "shop.csv"
    path.write_text("text,intent\nwhere is it,order_status\nsend it back,return_exchange\n")
    calibration, dev = recipe.read_messages(path, path)
    assert [e.intent for e in calibration] == ["order_status", "return_exchange"]
    assert dev == calibration
    seeds, held = recipe.read_messages(None, None)
    assert len(seeds) > len(held) > 500
