from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import InputError

pytest.importorskip("torch")
pytest.importorskip("peft")

from training.recipe import RECIPES, Recipe, read_recipe, recipe_of
from training.tuning import TuningConfig

pytestmark = pytest.mark.train


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_read(path: Path):
    """By its name, and it says what it starts from."""
    recipe = read_recipe(path.stem)
    assert recipe.base != Recipe().base
    assert read_recipe(str(path)) == recipe


def test_the_papers_set_up():
    """Llama 3.2 1B, tuned in NF4, all layers, served in four bits."""
    recipe = read_recipe("llama-3.2-1b")
    assert recipe.base == "meta-llama/Llama-3.2-1B"
    assert recipe.four_bit
    assert recipe.first_layer == 0
    assert (recipe.quantisation or "").startswith("IQ4_NL")
    assert isinstance(recipe.tuning, TuningConfig)


def test_four_bits_are_for_gpus_unless_asked_for():
    """auto: bf16 on a CPU, NF4 on a GPU; a named precision wins."""
    assert not recipe_of({}, "x").four_bit
    assert recipe_of({"tuning": {"device": "cuda:0"}}, "x").four_bit
    assert not recipe_of({"precision": "bf16", "tuning": {"device": "cuda"}}, "x").four_bit
    assert recipe_of({"precision": "nf4"}, "x").four_bit


def test_a_recipe_survives_being_written_down():
    """What a run keeps of it is what it was."""
    recipe = read_recipe("smollm2-135m")
    assert recipe_of(recipe.as_dict(), "run.json") == recipe


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"ranks": 3}, "no knob 'ranks'"),
        ({"tuning": {"rank": "many"}}, "rank cannot be 'many'"),
        ({"tuning": {"rank": True}}, "rank cannot be True"),
        ({"tuning": 3}, "table"),
        ({"precision": "int3"}, "auto, bf16, nf4"),
        ({"quantisation": "Q9_9"}, "Q9_9"),
        ({"first_layer": "two"}, "first_layer cannot be"),
    ],
)
def test_a_wrong_knob_is_named(content: dict[str, object], said: str):
    """The message says which, and what there is."""
    with pytest.raises(InputError, match=said):
        recipe_of(content, "x.toml")


def test_a_missing_or_broken_file_is_told(tmp_path: Path):
    """Names that are known are listed."""
    with pytest.raises(InputError, match=r"llama-3\.2-1b"):
        read_recipe("llama-9")
    broken = tmp_path / "broken.toml"
    broken.write_text("base = ")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(str(broken))
