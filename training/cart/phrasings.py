"""The sentences that mentions are put into, and what their slots become.

A slot is ``{role}`` or ``{role.form}``. Roles: a, b, c are put in; r, s are taken out; x is named
but must stay untouched; p, q are only talked about. Forms: none (with its quantity), num (quantity
always told), nom (as nominative), the (definite, one of it), bare (no article), gen (genitive), pl
(plural beside a number), n and d (the number alone, d in digits), old, oldn, oldd (with a number
that is taken back), and pronouns or verbs that agree: it, is, was, lo. ``{list}`` and ``{rlist}``
are several items. The use ``apart`` names several items outside a list, each with its own quantity,
or one for all (``only`` "same"), or one that the other's tells ("double", "half", "more", "fewer").
The use ``aside`` talks about x beside a wish. Phrasings of the uses ``before`` and ``after`` have no
slot: they are what people say around a wish, and never change it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from training.cart.grammar import NounPhrase
from training.cart.numerals import LARGEST_QUANTITY, number_text
from training.cart.products import DATA, Product
from training.cart.quantities import (
    after_number,
    counted,
    counting_gender,
    definite,
    draw_quantity,
)
from training.examples import read_rows

SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
# By (feminine, more than one).
_AGREEING = {
    "it": {(False, False): "it", (True, False): "it", (False, True): "them", (True, True): "them"},
    "is": {(False, False): "is", (True, False): "is", (False, True): "are", (True, True): "are"},
    "was": {(False, False): "was", (True, False): "was", (False, True): "were", (True, True): "were"},
    "lo": {(False, False): "lo", (True, False): "la", (False, True): "los", (True, True): "las"},
}  # fmt: skip
_AND = {
    "en": ("and", "&", "plus", "and also", "then"),
    "hr": ("i", "te", "+", "i još", "pa"),
    "es": ("y", "más", "y también", "+", "y además"),
}
_BULLETS = ("- ", "- ", "* ", "• ", "", "", "– ")
_NO_NUMBER = re.compile(r"\{\w+\.(the|bare|nom|gen|pl)\}")


@dataclass(frozen=True, slots=True)
class Phrasing:
    """A hand-written sentence. ``heldout`` ones are not trained on."""

    identity: str
    use: str
    text: str
    only: frozenset[str]
    heldout: bool

    @property
    def roles(self) -> dict[str, set[str]]:
        """The forms that each role is asked for."""
        found: dict[str, set[str]] = {}
        for role, form in SLOT.findall(self.text):
            found.setdefault(role, set()).add(form)
        return found

    def quantity_range(self, role: str) -> tuple[int, int]:
        """The smallest and largest quantity that can be told of a role (``only`` "many": from 2)."""
        forms = self.roles[role]
        if "pl" in forms or "many" in self.only:
            return 2, LARGEST_QUANTITY
        free = forms & {"", "num", "nom", "n", "d", "old"}
        return (1, LARGEST_QUANTITY) if free else (1, 1)


@dataclass(slots=True)
class Item:
    """A product as one message mentions it; ``freely`` counts it by any dozens that people say.

    ``said`` stands in the place of mention and quantity, if it is given, and means several things.
    """

    product: Product
    phrase: NounPhrase
    quantity: int = 1
    taken_back: int = field(default=1)
    freely: bool = False
    said: str = ""

    @property
    def mention(self) -> str:
        return self.phrase.nominative

    @property
    def units(self) -> tuple[str, ...]:
        """None for a pasted name: it tells its own ("a bottle of Dark Beer 0.33L bottle")."""
        return () if self.mention == self.product.name else self.product.units


@cache
def read_phrasings(language: str, *, late: bool = True) -> Mapping[str, tuple[Phrasing, ...]]:
    """By use. Every fifth by digest is held out, but never a whole use.

    Rows marked ``late`` came after dev and test had been drawn up. They are for training only: none is
    held out, and those two, drawn without them, stay as they were.
    """
    found: dict[str, list[Phrasing]] = {}
    for row in read_rows(DATA / f"phrasings.{language}.jsonl"):
        if row.get("late") and not late:
            continue
        digest = hashlib.sha256(f"{language}:{row['text']}".encode()).hexdigest()
        found.setdefault(row["use"], []).append(
            Phrasing(
                identity=f"{row['use']}-{language}-{digest[:6]}",
                use=row["use"],
                text=row["text"],
                only=frozenset(row.get("only", "").split()),
                heldout=not row.get("late") and int(digest[6:14], 16) % 5 == 0,
            )
        )
    return {use: tuple(rows) for use, rows in found.items()}


def accepts(phrasing: Phrasing, role: str, phrase: NounPhrase, product: Product) -> bool:
    """Whether the sentence agrees with the phrase in number, gender and case.

    A product that is named like a command does not open a sentence that tells no number: then
    nobody could say whether it is the product or the command.
    """
    if product.commanding and _NO_NUMBER.match(phrasing.text):
        return False
    if phrase.object_only and phrasing.roles.get(role, set()) & {"nom", "gen", "bare"}:
        return False
    if phrase.plural_only and ("sg" in phrasing.only or "pl" in phrasing.roles.get(role, ())):
        return False
    return not ("m" in phrasing.only and phrase.gender != "m")


def render(
    language: str,
    phrasing: Phrasing,
    items: Mapping[str, Item],
    lists: Mapping[str, list[Item]],
    rng: random.Random,
) -> str:
    """The sentence with its slots filled."""

    def fill(found: re.Match[str]) -> str:
        role, form = found[1], found[2] or ""
        if role in lists:
            before, after = found.string[: found.start()], found.string[found.end() :]
            if (not after or after[0] == "\n") and rng.random() < (0.7 if "\n" in before else 0.2):
                return _lines(language, lists[role], before, rng)
            return _join(language, lists[role], rng)
        if role == "n":
            return str(draw_quantity(rng, 2))
        return _slot(language, form, items[role], rng)

    text = SLOT.sub(fill, phrasing.text)
    if language == "es":
        text = re.sub(r"\b([Dd]e|[Aa]) el\b", lambda m: f"{m[1]}l", text)
    return text


def _slot(language: str, form: str, item: Item, rng: random.Random) -> str:
    phrase, number = item.phrase, item.quantity
    units = item.units
    many = number > 1 or phrase.plural_only or bool(item.said)
    if form in _AGREEING:
        return _AGREEING[form][phrase.gender.startswith("f"), many]
    if form in {"the", "bare", "gen", "pl"}:
        return {
            "the": definite(language, phrase),
            "bare": phrase.nominative,
            "gen": phrase.genitive,
            "pl": after_number(phrase, number, language),
        }[form]
    if form in {"d", "oldd"}:
        return str(number if form == "d" else item.taken_back)
    if form in {"n", "oldn"}:
        told = number if form == "n" else item.taken_back
        return number_text(language, told, counting_gender(phrase), rng, standing=True)
    if item.said:
        return item.said
    told = item.taken_back if form == "old" else number
    return counted(
        language, phrase, told, units, rng,
        explicit=form in {"num", "old"} or item.product.commanding, nominative=form == "nom",
        freely=item.freely,
    )  # fmt: skip


def _join(language: str, items: list[Item], rng: random.Random) -> str:
    parts = [_part(language, item, rng) for item in items]
    if rng.random() < 0.2:
        return rng.choice((", ", " + ", "\n", " ", " / ")).join(parts)
    word = rng.choice(_AND[language]) if rng.random() < 0.3 else _AND[language][0]
    if rng.random() < 0.15:
        return f" {_AND[language][0]} ".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _lines(language: str, items: list[Item], before: str, rng: random.Random) -> str:
    """One product a line, at the end of a sentence or under its heading."""
    parts = [_part(language, item, rng, line=True) for item in items]
    if rng.random() < 0.1:
        mark = rng.choice(("{}. ", "{}) "))
        parts = [mark.format(i) + part for i, part in enumerate(parts, 1)]
    else:
        bullet = rng.choice(_BULLETS)
        parts = [bullet + part for part in parts]
    opening = ""
    if before and not before.endswith("\n"):
        opening = ":\n" if before.rstrip()[-1].isalnum() and rng.random() < 0.6 else "\n"
    return opening + "\n".join(parts)


def _part(language: str, item: Item, rng: random.Random, *, line: bool = False) -> str:
    return item.said or counted(
        language, item.phrase, item.quantity, item.units, rng,
        explicit=item.product.commanding, nominative=line, line=line, leading=not line,
        freely=item.freely,
    )  # fmt: skip
