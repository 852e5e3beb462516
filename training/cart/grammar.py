"""Noun phrases in three languages, from the forms that are written by hand.

A head is written ``f:[kokosov] {voda|vodu|vode|voda}``: the gender, the noun's forms in braces, and
adjectives in brackets, which decline regularly. A mention puts ``{}`` where its family's head goes,
as in ``[mal] {} od 330 ml``, or is a phrase of its own. ``~`` before either marks
what few people say, such as most diminutives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_BRACES = re.compile(r"\{([^{}]+)\}")
_ADJECTIVE = re.compile(r"\[([^\[\]]+)\]")
_GENDER = re.compile(r"^(m|f|n|fa|mp|fp|p):")
_PLURALS = frozenset(("p", "mp", "fp"))
_CASES = 5
_SOFT = ("š", "č", "ć", "ž", "đ", "j", "c")
# Croatian endings by gender: nominative, accusative, with 2-4, with 5 and more, genitive.
_CROATIAN = {
    "m": ("i", "i", "a", "ih", "og"),
    "f": ("a", "u", "e", "ih", "e"),
    "n": ("o", "o", "a", "ih", "og"),
    "fp": ("e", "e", "e", "ih", "ih"),
    "mp": ("i", "e", "i", "ih", "ih"),
}


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A mention in all the forms that a sentence may ask for.

    English and Spanish have two forms: ``nominative``, ``accusative`` and ``genitive`` are the
    singular, ``few`` (2 to 4) and ``many`` the plural. ``gender`` is m, f, n, or fa for Spanish
    feminines that take "el". A ``plural_only`` phrase (jeans, nappies) is counted in units. A
    ``rare`` one is said by few. Of an ``object_only`` one nobody wrote but what follows "add", and a
    ``described`` one ("what you put under hot pots") takes no article.
    """

    nominative: str
    accusative: str
    few: str
    many: str
    genitive: str
    gender: str
    plural_only: bool
    rare: bool = False
    object_only: bool = False
    described: bool = False

    def add(self, before: str = "", after: str = "") -> NounPhrase:
        """The same phrase with a word in front or behind, such as a brand."""

        def around(form: str) -> str:
            return " ".join(f"{before} {form} {after}".split())

        return replace(
            self,
            nominative=around(self.nominative),
            accusative=around(self.accusative),
            few=around(self.few),
            many=around(self.many),
            genitive=around(self.genitive),
        )

    @classmethod
    def of(cls, forms: Sequence[str], gender: str, *, plural_only: bool = False) -> NounPhrase:
        """From the five forms in the order of the fields."""
        nominative, accusative, few, many, genitive = forms
        return cls(nominative, accusative, few, many, genitive, gender, plural_only)


def read_phrase(language: str, written: str, head: str = "") -> NounPhrase:
    """The forms of a head, or of a mention whose ``{}`` stands for that head."""
    rare = written.startswith("~") or ("{}" in written and head.startswith("~"))
    phrase = _read(language, written.removeprefix("~"), head.removeprefix("~"))
    return replace(phrase, rare=True) if rare else phrase


def _read(language: str, written: str, head: str) -> NounPhrase:
    if "{}" in written:
        gender, inner = _split_gender(head)
        if not _BRACES.search(inner):
            inner = f"{{{inner}}}"
        return _decline(language, gender, written.replace("{}", inner))
    gender, inner = _split_gender(written)
    if language == "en" and not _BRACES.search(inner) and written == head:
        inner = f"{{{inner}}}"
    return _decline(language, gender, inner)


def _split_gender(written: str) -> tuple[str, str]:
    found = _GENDER.match(written)
    return (found[1], written[found.end() :]) if found else ("m", written)


def _decline(language: str, gender: str, template: str) -> NounPhrase:
    plural_only = gender in _PLURALS
    if language == "en" and "{" not in template and "|" in template:
        template = f"{{{template}}}"
    if "{" not in template and "[" not in template:
        forms = [template] * _CASES
    elif language == "hr":
        forms = [_form(language, gender, template, case) for case in range(_CASES)]
    else:  # the singular and the plural
        one, many = (_form(language, gender, template, case) for case in (0, 2))
        forms = [one, one, many, many, one]
    gender = {"fp": "f", "mp": "m", "p": "m"}.get(gender, gender)
    return NounPhrase.of(forms, gender, plural_only=plural_only)


def _form(language: str, gender: str, template: str, case: int) -> str:
    place = 0 if gender in _PLURALS or case not in {2, 3} else 1
    text = _BRACES.sub(lambda m: _noun(language, gender, m[1], case), template)
    return _ADJECTIVE.sub(lambda m: _adjective(language, gender, m[1], case, place), text)


def _noun(language: str, gender: str, written: str, case: int) -> str:
    forms = written.split("|")
    if language == "hr":
        return _croatian_noun(gender, forms, case)
    if gender in _PLURALS or case not in {2, 3}:
        return forms[0]
    if len(forms) > 1:
        return forms[1]
    return plural(language, forms[0])


def _croatian_noun(gender: str, forms: list[str], case: int) -> str:
    """Forms are written m/n: nominative|genitive|plural genitive; f: with the accusative second.

    Plurals only: nominative|genitive, or masculine nominative|accusative|genitive. What follows
    2, 3 and 4 looks like the genitive singular in all nouns used here.
    """
    if len(forms) == 1:
        return forms[0]
    if gender in _PLURALS:
        nominative, accusative, genitive = forms[0], forms[-2], forms[-1]
        return (nominative, accusative, nominative, genitive, genitive)[case]
    nominative, genitive, many = forms[0], forms[-2], forms[-1]
    accusative = forms[1] if gender == "f" else nominative
    return (nominative, accusative, genitive, many, genitive)[case]


def _adjective(language: str, gender: str, stem: str, case: int, place: int) -> str:
    if language == "es":
        return _spanish_adjective(gender, stem, plural_form=gender in _PLURALS or place == 1)
    soft = stem.endswith(("'", *_SOFT))
    stem = stem.rstrip("'")
    ending = _CROATIAN[gender][case]
    if gender == "m" and case < 2 and stem.endswith("ov"):
        ending = ""
    if soft:
        ending = {"o": "e", "og": "eg"}.get(ending, ending)
    return stem + ending


def _spanish_adjective(gender: str, word: str, *, plural_form: bool) -> str:
    if word.endswith("o") and gender.startswith("f"):
        word = f"{word[:-1]}a"
    return plural("es", word) if plural_form else word


def plural(language: str, word: str) -> str:
    """The regular plural; irregular ones are written out in the data."""
    if not word[-1].isalpha():
        return word
    if language == "es":
        if word.endswith(("ón", "án")):
            return f"{word[:-2]}{'o' if word.endswith('ón') else 'a'}nes"
        return f"{word}s" if word[-1] in "aeiouáéíóú" else f"{word}es"
    if word.endswith(("s", "x", "sh", "ch")):
        return f"{word}es"
    return f"{word}s"
