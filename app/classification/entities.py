"""Order numbers, e-mail addresses, phone numbers, amounts and sizes in a message, by rule.

The rules, in the order in which they claim their characters (docs/api.md tells them to users):

``email``         the usual shape; the last part of the domain is letters.
``order_number``  three characters or more with a digit, after a word for an order and a word or sign for
                  a number ("order no.", "broj narudžbe"); after the word alone, or with "is", four
                  digits at least and no amount or count ("order 100 mugs" is none); three characters
                  after ``#``; or capitals and digits of the shape ``AB-12345``. After a word for
                  several orders, further ones of the same shape ("orders 4711, 4712 and 4713").
``phone``         7 to 15 digits that begin with ``+`` or ``0``, stand in the groups of an American or a
                  Spanish number, or follow a word for a phone; never a date, nor what follows one.
``size``          a number or S, M, L after a word for a size, or EU, UK, US in capitals; 34 to 49 before
                  EU; XS, XL and the like anywhere. The value is the size alone.
``amount``        a number with a currency before or after it; the value has both. Thousands may stand in
                  groups of three, as in "10 000 €"; so "2 100 € jackets" is read as 2100 €.

The words are English, Croatian and Spanish. Letters in two code points, no-break spaces and hyphens are
read like the plain ones. Every repetition is bounded, so the time grows with the length of the text and
no faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import normalize

PRIVATE = frozenset({"email", "order_number", "phone"})
"""Kinds that lead to a person."""


@dataclass(frozen=True, slots=True)
class Entity:
    """``value`` is ``text[start:end]``; offsets count Unicode code points."""

    kind: str
    start: int
    end: int
    value: str


_CURRENCY = (
    r"(?:[€$£]|eur|usd|gbp|chf|hrk|kn|kun[aeu]|eur[aio]|euros|dollars?|bucks|pounds?|quid|"
    r"d[oó]lar(?:es|[aei])?|libras?|pesos?)(?!\w)"
)
"""A currency after a number."""
_COUNT = (
    rf"\d{{1,9}}(?:[.,]\d{{1,3}}){{0,3}}\s?(?:{_CURRENCY}|%|"
    r"(?:kg|g|ml|cm|mm|km|kom|komada|pcs|pieces|units|unidades|piezas)\b)"
)
"""No order number after the word alone; "order #471 pieces missing" has one."""
_NUMBER = (
    r"(?:(?<!#)(?<!\d[:/-])[1-9]\d{0,2}(?: \d{3}(?![\d%])){1,2}(?:[.,]\d{1,2})?"
    r"|\d{1,9}(?:[.,]\d{1,3}){0,3})"
)
"""An amount's number, thousands in groups or not; no group goes on from a time or a date."""
_SIGN = (
    r"[\s:.,]{0,3}(?:\b(?:with|under|pod|con)\s(?:the\s|el\s)?)?"
    r"(?:\b(?:number|n[uú]m|n\.?o|nr|nro|id|code|broj(?:em)?|br|n[uú]mero)\b|\bn\.?[º°]|[#№])"
)
_IS = r"(?:[\s:.,]{0,3}\b(?:is|je|glasi|es)\b)?"
_CODE = r"(?=[a-z-]{0,12}\d)[a-z0-9][a-z0-9-]{1,23}[a-z0-9]"
_PATTERNS = {
    "email": (
        r"(?<![\w.%+-])(?P<v>[\w%+-][\w.%+-]{0,63}@(?:[^\W_]|-){1,63}(?:\.(?:[^\W_]|-){1,63}){0,6}"
        r"\.[^\W\d_]{2,24})(?![\w-])"
    ),
    "order_number": (
        r"(?P<of>\b(?:broj|n[uú]mero\sdel?(?:\s(?:mi|la))?)\s)?"
        r"\b(?:(?P<several>orders|pedidos|narud[žz]be|paketi|ra[čc]uni)\b|order|purchase|parcel|package|"
        r"tracking|invoice|reference|pedido|orden|compra|paquete|factura|seguimiento|narud[žz]b\w{1,2}|"
        r"paket\w?|ra[čc]un\w?)"
        rf"{_IS}(?:(?P<sign>(?:{_SIGN}){{1,3}}){_IS}[\s:.,-]{{0,3}}|[\s:.,-]{{1,3}}(?!{_COUNT}))"
        rf"(?P<v>{_CODE})(?![\w-])"
        rf"|(?<![\w#&])#\s?(?P<hash>{_CODE})(?![\w-])"
        r"|(?<![\w-])(?P<shape>(?-i:[A-Z]){1,5}-?\d{4,12}(?:-\d{1,8}){0,3})(?![\w-])"
    ),
    "phone": (
        r"(?P<cue>\b(?:phone|call|mobile|cell|tel|text|whatsapp|mob|mobitel\w{0,2}|nazovite|zovite|"
        r"tel[eé]fon\w{0,2}|m[oó]vil|ll[aá]m\w{1,6})\b[\s:.,a-z]{0,12}?)?"
        rf"(?<![\w.+#-])(?P<v>\+?\(?\d[\d ()/.-]{{5,20}}\d)(?!\w|\s?{_CURRENCY})"
    ),
    "size": (
        r"(?:\b(?:sizes?|talla|tallas|talle|veli[čc]in[aeiou]|vel)[\s:.]{1,3}(?:(?:is|an?|the|je|es|eu|uk|us|"
        r"la|una)\s){0,2}|\b(?-i:EU|UK|US)\s?)"
        rf"(?P<v>\d{{1,2}}(?:[.,]5|\s?½|/\d{{2}})?|x{{0,3}}[sl]|m|[2-6]xl)(?![\w/]|[.,]\d|\s?{_CURRENCY})"
        rf"|\b(?:broj|n[uú]mero)\s(?P<shoe>3[4-9]|4\d)(?![\w.,]|\s?{_CURRENCY})"
        r"|(?<![\w.,:€$£-])(?<![€$£]\s)(?<!eur\s)(?P<behind>(?:3[4-9]|4\d)(?:[.,]5|\s?½)?)\s?(?-i:EU)"
        r"(?![\w-]|\s?\d|\s(?:countr|member|state|time|zem|dr[žz]av|[čc]lanic|pa[ií]s|estado))"
        r"|(?<![\w'’-])(?P<letters>x{1,3}s|x{1,3}l|[2-6]xl)(?![\w'’-])"
    ),
    "amount": (
        rf"(?<![\w.,])(?P<v>(?:[€$£]|eur|usd|gbp|chf|hrk)\s?{_NUMBER}|{_NUMBER}\s?{_CURRENCY})(?!\w)"
    ),
}
_RULES = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"  # or a month: both orders are written
_DATE = re.compile(
    rf"(?<![\w.,+])(?:{_DAY}([./])\s?{_DAY}\1\s?(?:(?:19|20)\d\d|\d\d)(?!\1?\d)"
    rf"|(?<!-){_DAY}-{_DAY}-(?:19|20)\d\d(?!-?\d)"
    rf"|(?<!-)(?:19|20)\d\d([./-]){_DAY}\2{_DAY}(?!\2?\d)"
    r"|\d\d?\.\s?\d\d?\.(?!\d)"  # 01.05.
    r"|\d\d?([./])\d\d?\s?-\s?\d\d?\3\d\d?(?!\3?\d))"  # 01/05-03/05, 08.00 - 16.00
)
_GROUPED = re.compile(
    r"\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|[6-9]\d{2} \d{3} \d{3}|[6-9]\d{2}(?: \d{2}){3}"
)
_FURTHER = re.compile(
    r"(?:\s?[,&+]\s?|\s?/(?!(?:19|20)\d\d(?!\d))\s?|,?\s(?:and|or|i|ili|te|y|o)\s)"
    rf"(?P<hash>#\s?)?(?!{_COUNT})(?P<v>{_CODE})(?![\w-])(?P<word>\s[^\W\d_])?",
    re.IGNORECASE,
)
"""What may be a further number behind that of an order."""
_DIGITS = re.compile(r"\d(?:[ \u00a0\u2007\u2009\u202f.\u2010\u2011-]?\d){4,63}")
_PLAIN = str.maketrans("\u00a0\u2007\u2009\u202f\u2010\u2011", "    --")
_MARKED = re.compile(r"[A-Za-z][\u0300-\u033f]")
_PIECE = re.compile(rf"{_MARKED.pattern}|.", re.DOTALL)


def find_entities(text: str) -> tuple[Entity, ...]:
    """All that the rules find, by offset; no two share a character."""
    plain, offsets = _plain(text)
    entities: list[Entity] = []
    for kind, rule in _RULES.items():
        left = list(plain)  # what is claimed turns into letters that no later rule takes
        for start, end in _spans(kind, rule, plain):
            left[start:end] = "_" * (end - start)
            first, behind = offsets[start], offsets[end]
            entities.append(Entity(kind, first, behind, text[first:behind]))
        plain = "".join(left)
    return tuple(sorted(entities, key=lambda entity: entity.start))


def _spans(kind: str, rule: re.Pattern[str], plain: str) -> Iterator[tuple[int, int]]:
    """Where the values of one kind stand, in order."""
    done = 0
    for found in rule.finditer(_DATE.sub(_blank, plain) if kind == "phone" else plain):
        assert found.lastgroup is not None  # the group of the value closes last
        start, end = found.span(found.lastgroup)
        if start < done or not _holds(kind, found, plain[start:end]):
            continue
        yield start, end
        done = end
        if kind == "order_number" and found["several"] and found["of"] is None:
            for further in _further(plain, start, end):
                yield further
                _, done = further


def _further(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the numbers of other orders stand behind that of the first: they are of the same shape."""
    shape = _shape(plain[start:end])
    while (
        (found := _FURTHER.match(plain, end))
        and _shape(found["v"]) == shape
        and (len(shape) > 3 or found["hash"] or not found["word"])  # "471, 120 mugs"
        and not _DATE.match(plain, found.start("v"))
    ):
        start, end = found.span("v")
        yield start, end


def _shape(value: str) -> str:
    """Zeros in front tell phones apart from what else has as many digits."""
    kinds = "".join("0" if c.isdigit() else "a" if c.isalpha() else c for c in value)
    return kinds if value[0] != "0" else f"0:{kinds}"


def _plain(text: str) -> tuple[str, Sequence[int]]:
    """The text with letters composed, spaces and hyphens plain; and where its characters and end stood."""
    plain = text.translate(_PLAIN)
    if _MARKED.search(plain) is None:
        return plain, range(len(text) + 1)
    letters: list[str] = []
    offsets: list[int] = []
    for found in _PIECE.finditer(plain):
        piece = normalize("NFC", found[0]) if len(found[0]) == 2 else found[0]
        letters.append(piece)
        offsets.extend(range(found.start(), found.start() + len(piece)))
    return "".join(letters), [*offsets, len(text)]


def _blank(found: re.Match[str]) -> str:
    return "_" * len(found[0])


def _holds(kind: str, found: re.Match[str], value: str) -> bool:
    """What a pattern alone cannot say."""
    digits = sum(c.isdigit() for c in value)
    if kind == "order_number":
        alone = found["v"] is not None and found["sign"] is None and found["of"] is None
        return digits >= 4 if alone else digits >= 1
    if kind == "phone":
        known = (
            value[0] in "+0" or value.startswith("(0") or found["cue"] or _GROUPED.fullmatch(value)
        )
        return bool(known) and 7 <= digits <= 15
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
