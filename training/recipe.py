"""The knobs of one `fit`: from a TOML file, changed by the command line, kept with the run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from app.backends.gguf_quantise import Quantisation
from app.errors import InputError, ManifestInvalid
from training.tuning import TuningConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

RECIPES = Path(__file__).parent / "recipes"

Precision = Literal["auto", "bf16", "nf4"]
Tune = Literal["auto", "always", "never"]

FEW_MESSAGES = 40
"""An intent, on average: up to here the base stays as it is and only a head is fitted."""

TUNING = TuningConfig(
    rank=16,
    alpha=32.0,
    learning_rate=5e-4,
    epochs=8.0,
    batch_size=16,
    ema=0.98,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run is tuned with."""

    base: str = "storefront"
    precision: Precision = "auto"
    """Of the frozen weights while tuning: ``nf4`` is QLoRA. ``auto``: nf4 on a GPU, bf16 on a CPU."""
    tune: Tune = "auto"
    """Whether the shop gets an adapter of its own; ``auto``: from :data:`FEW_MESSAGES` an intent on."""
    quantisation: str | None = None
    """Of the weights that are served; None takes the base's own."""
    first_layer: int | None = None
    """Layers before it stay as they are; None leaves two thirds of them."""
    tuning: TuningConfig = field(default=TUNING)

    @property
    def frozen(self) -> bool:
        """Whether the base's weights stay as they are; to be asked once ``auto`` has been decided."""
        return self.tune == "never"

    @property
    def four_bit(self) -> bool:
        on_gpu = self.tuning.device.startswith("cuda")
        return self.precision == "nf4" or (self.precision == "auto" and on_gpu)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_recipe(name: str | None) -> Recipe:
    """A file, or the name of one in ``training/recipes``; the defaults without a name.

    Raises :class:`app.errors.InputError` when it cannot be read or holds an unknown knob.
    """
    if name is None:
        return Recipe()
    path = Path(name) if Path(name).suffix == ".toml" else RECIPES / f"{name.lower()}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(found.stem for found in RECIPES.glob("*.toml")))
        raise InputError(f"there is no recipe {name!r}; known: {known}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the recipe {path.name} cannot be read: {error}") from error
    return recipe_of(content, path.name)


def recipe_of(content: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from what a TOML or JSON file holds. Raises :class:`app.errors.InputError`."""
    given = dict(content)
    tuning = given.pop("tuning", {})
    if not isinstance(tuning, dict):
        raise InputError(f"{source}: [tuning] must be a table")
    recipe = replace(
        _changed(Recipe(), given, source),
        tuning=_changed(TUNING, tuning, f"{source} [tuning]"),
    )
    if recipe.precision not in get_args(Precision):
        raise InputError(f"{source}: precision must be one of {', '.join(get_args(Precision))}")
    if recipe.tune not in get_args(Tune):
        raise InputError(f"{source}: tune must be one of {', '.join(get_args(Tune))}")
    if recipe.quantisation is not None:
        try:
            Quantisation.parse(recipe.quantisation)
        except ManifestInvalid as error:
            raise InputError(f"{source}: {error}") from error
    return recipe


_OPTIONAL = {"quantisation": str, "first_layer": int}


def _changed(defaults: T, given: Mapping[str, Any], source: str) -> T:
    """The dataclass with the given values, each of the type that its default has."""
    known = {knob.name: getattr(defaults, knob.name) for knob in fields(defaults)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{source}: there is no knob {name!r}; known: {', '.join(known)}")
        wanted = _OPTIONAL.get(name, type(known[name]))
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits and not (value is None and name in _OPTIONAL):
            raise InputError(f"{source}: {name} cannot be {value!r}")
        values[name] = float(value) if wanted is float else value
    return replace(defaults, **values)
