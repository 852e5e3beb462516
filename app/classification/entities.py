"""Order numbers, e-mail addresses, phone numbers, amounts and sizes in a message, by rule.

The rules, in the order in which they claim their characters (docs/api.md tells them to users):

``email``         the usual shape; the last part of the domain is letters.
``order_number``  three characters or more with a digit, after a word for an order and a word or sign for
                  a number; after the word alone four digits at least ("order 100 mugs" is none); ``#``
                  and three digits; or capitals and digits of the shape ``AB-12345``.
``phone``         7 to 15 digits that begin with ``+`` or ``0``, stand in the groups of an American or a
                  Spanish number, or follow a word for a phone; never a date.
``amount``        a number with a currency before or after it; the value has both.
``size``          a number or S, M, L after a word for a size, or EU, UK, US in capitals; XS, XL and the
                  like anywhere. The value is the size alone.

The words are English, Croatian and Spanish. Every repetition is bounded, so the time grows with the
length of the text and no faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PRIVATE = frozenset({"email", "order_number", "phone"})
"""Kinds that lead to a person."""


@dataclass(frozen=True, slots=True)
class Entity:
    """``value`` is ``text[start:end]``; offsets count Unicode code points."""

    kind: str
    start: int
    end: int
    value: str


_NUMBER_WORD = r"number|num|no|nr|id|code|is|broj|br|je|glasi|n[uú]mero|n[ºo°]|es|de"
_PATTERNS = {
    "email": (
        r"(?<![\w.%+-])(?P<v>[\w%+-][\w.%+-]{0,63}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,6}"
        r"\.[^\W\d_]{2,24})(?![\w-])"
    ),
    "order_number": (
        r"\b(?:orders?|purchase|parcel|package|tracking|invoice|reference|pedidos?|orden|compra|paquete|"
        r"factura|seguimiento|narud[žz]b\w{1,2}|paket\w?|ra[čc]un\w?)"
        rf"(?P<sign>(?:[\s:.,]{{0,3}}(?:\b(?:{_NUMBER_WORD})\b|#)){{1,4}})?[\s:.,#-]{{1,3}}"
        r"(?P<v>(?=[a-z-]{0,12}\d)[a-z0-9][a-z0-9-]{1,23}[a-z0-9])(?![\w-])"
        r"|(?<![\w#&])#\s?(?P<hash>(?=[a-z-]{0,12}\d)[a-z0-9][a-z0-9-]{1,23}[a-z0-9])(?![\w-])"
        r"|(?<![\w-])(?P<shape>(?-i:[A-Z]){1,5}-?\d{4,12}(?:-\d{1,8}){0,3})(?![\w-])"
    ),
    "phone": (
        r"(?P<cue>\b(?:phone|call|mobile|cell|tel|text|whatsapp|mob|mobitel|telefon|nazovite|zovite|"
        r"tel[eé]fono|m[oó]vil|ll[aá]m\w{1,6})\b[\s:.,a-z]{0,12}?)?"
        r"(?<![\w.+#-])(?P<v>\+?\(?\d[\d ()/.-]{5,20}\d)(?!\w)"
    ),
    "amount": (
        r"(?<![\w.,])(?P<v>(?:[€$£]|(?:eur|usd|gbp|chf|hrk)\b)\s?\d{1,9}(?:[.,]\d{1,3}){0,3}"
        r"|\d{1,9}(?:[.,]\d{1,3}){0,3}\s?(?:[€$£]|(?:eur|usd|gbp|chf|hrk|kn|kun[aeu]|eur[aio]|euros?|"
        r"dollars?|bucks|pounds?|quid|d[oó]lares|d[oó]lar|libras?|pesos?)\b))(?!\w)"
    ),
    "size": (
        r"(?:\b(?:sizes?|talla|tallas|talle|veli[čc]in[aeiou]|vel)[\s:.]{1,3}(?:(?:is|an?|the|je|es|eu|uk|us|"
        r"la|una)\s){0,2}|\b(?-i:EU|UK|US)\s?)"
        r"(?P<v>\d{1,2}(?:[.,]5|\s?½|/\d{2})?|x{0,3}[sl]|m|[2-6]xl)(?![\w/]|[.,]\d)"
        r"|\b(?:broj|n[uú]mero)\s(?P<shoe>3[4-9]|4\d)(?![\w.,])"
        r"|(?<![\w'’-])(?P<letters>x{1,3}s|x{1,3}l|[2-6]xl)(?![\w'’-])"
    ),
}
_RULES = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
_DATE = re.compile(r"\d{1,4}([./-])\s?\d{1,2}\1\s?\d{1,4}\.?")
_GROUPED = re.compile(
    r"\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|[6-9]\d{2} \d{3} \d{3}|[6-9]\d{2}(?: \d{2}){3}"
)
_DIGITS = re.compile(r"\d(?:[ .-]?\d){4,63}")


def find_entities(text: str) -> tuple[Entity, ...]:
    """All that the rules find, by offset; no two share a character."""
    claimed = bytearray(len(text))
    entities: list[Entity] = []
    for kind, rule in _RULES.items():
        for found in rule.finditer(text):
            assert found.lastgroup is not None  # the group of the value closes last
            start, end = found.span(found.lastgroup)
            if 1 in claimed[start:end] or not _holds(kind, found, text[start:end]):
                continue
            claimed[start:end] = b"\x01" * (end - start)
            entities.append(Entity(kind, start, end, text[start:end]))
    return tuple(sorted(entities, key=lambda entity: entity.start))


def _holds(kind: str, found: re.Match[str], value: str) -> bool:
    """What a pattern alone cannot say."""
    digits = sum(c.isdigit() for c in value)
    if kind == "order_number":
        plain = found["v"] is not None and found["sign"] is None
        return digits >= 4 if plain else digits >= 1
    if kind == "phone":
        known = (
            value[0] in "+0" or value.startswith("(0") or found["cue"] or _GROUPED.fullmatch(value)
        )
        return bool(known) and 7 <= digits <= 15 and not _DATE.fullmatch(value)
    return True


def mask(text: str) -> str:
    """The text with what leads to a person replaced: ``<email>``, ``<order_number>``, ``<phone>``.

    Five digits and more that are none of these become ``<number>``: cards, accounts, postal codes. Names
    and addresses stay, as no rule can tell them from other words.
    """
    return "".join(_masked(text))


def _masked(text: str) -> Iterator[str]:
    end = 0
    for entity in find_entities(text):
        yield _DIGITS.sub("<number>", text[end : entity.start])
        yield f"<{entity.kind}>" if entity.kind in PRIVATE else entity.value
        end = entity.end
    yield _DIGITS.sub("<number>", text[end:])
