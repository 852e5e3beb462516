"""How a cart message looks after thumbs and habits; numbers and turning words stay readable."""

from __future__ import annotations

import random
import re

from training.noise import typo, without_diacritics

_OPENERS = {
    "en": ("hi", "hello", "hey", "ok so", "hi there", "umm", "sorry,", "good evening,"),
    "hr": ("bok", "pozdrav", "dobar dan", "ej", "oprostite,", "hej", "ovaj,", "dobra večer,"),
    "es": ("hola", "buenas", "oye", "disculpa,", "buen día,", "eh,", "hola qué tal,", "a ver,"),
}
_CLOSERS = {
    "en": ("thanks", "thx", "pls", "!!", "🙏", "cheers", "thank you so much", ":)"),
    "hr": ("hvala", "hvala puno", "lp", "!!", "🙏", "molim", "hvala unaprijed", ":)"),
    "es": ("gracias", "porfa", "xfa", "!!", "🙏", "muchas gracias", "por favor", ":)"),
}
# A slip in these could change what is asked for, not only how it is spelt.
_KEPT_WORDS = """
    three seven eight eleven twelve fifteen twenty thirty forty fifty dozen couple another fewer
    keep leave cancel četiri sedam jedan jednu jedno dvije jedanaest dvanaest petnaest dvadeset
    trideset pedeset tuceta tucet nikako ostavi zadrži umjesto manje cinco siete cuatro quince
    veinte treinta cuarenta docena docenas media menos mejor conserva
"""
_KEPT = frozenset(_KEPT_WORDS.split())


def finish(text: str, language: str, rng: random.Random, slips: int = 0) -> str:
    """The message as typed, with so many slips of the thumb."""
    for _ in range(slips):
        text = _slip(text, rng)
    if rng.random() < 0.08:
        text = f"{rng.choice(_OPENERS[language])} {text}"
    if rng.random() < 0.08:
        text = f"{text} {rng.choice(_CLOSERS[language])}"
    roll = rng.random()
    if roll < 0.45:
        text = text.lower()
    elif roll < 0.47:
        text = text.upper()
    elif roll < 0.75:
        text = text[0].upper() + text[1:]
    if language != "en" and rng.random() < 0.35:
        text = without_diacritics(text)
    if rng.random() < 0.3:
        # A comma or point beside a digit keeps numbers apart or together.
        text = re.sub(r"(?<!\d)[,.](?!\d)|[!?¿¡]", lambda m: "" if m[0] != "," else " ", text)
        text = re.sub(r"  +", " ", text).strip() or text
    elif rng.random() < 0.15 and text[-1].isalnum():
        text += "."
    return text


def _slip(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    places = [
        i
        for i, word in enumerate(words)
        if len(word) >= 5 and word.isalpha() and word.casefold() not in _KEPT
    ]
    if not places:
        return text
    place = rng.choice(places)
    words[place] = typo(words[place], rng)
    return " ".join(words)
