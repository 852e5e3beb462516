"""What customers of a storefront type: short and long, in three languages, none of it twice."""

from __future__ import annotations

import random
from collections.abc import Iterator

_TEMPLATES = (
    # English: from one breath to a whole story
    "order {number}??",
    "refund",
    "hi",
    "human please",
    "track {number}",
    "{product} back in stock when",
    "any discount codes",
    "cancel {number} pls",
    "where's my {product}, it was supposed to be here {day}",
    "do you ship to {city} and how much is it",
    "can i pay half now and half next month",
    "add {count} of the {product} to my basket",
    "take the {product} out of my cart please",
    "make that {count} instead of one, the {product}",
    "does the {product} come in a bigger size, i'm usually between two",
    "which is better for a small kitchen, the {product} or the cheaper one you had on sale",
    "the box came today but one {product} is missing, i ordered {count} and there are fewer in it",
    "i typed the wrong house number on {number}, can you still change it before it leaves?",
    "your driver says he tried on {day} but i was at home the whole day and nobody rang",
    "i need the invoice for {number} with our company name and tax number on it, accounting is waiting",
    "my card was charged twice for {number}, once on {day} and again the day after, please give one back",
    "can't log in, the reset mail never arrives, not in spam either",
    "how long do i have to send something back if it was a present",
    (
        "i sent the {product} back two weeks ago and the money still isn't on my account, tracking says "
        "you have had it since {day}. this is the third time i write, can somebody please look at it"
    ),
    "what is the {product} made of, my daughter is allergic to wool",
    "do i get points for an order that i paid with a voucher",
    "stop sending me mails every day",
    "delete everything you know about me",
    "the courier left it with a neighbour who doesn't exist. photo shows somebody else's door. what now",
    "is the {product} suitable for outdoors or will it rust",
    "price dropped a day after i bought it, do you refund the difference",
    "thanks, that solved it",
    "looking for a present for my mum around {count}0 euro, she likes gardening and tea",
    (
        "hello, i bought the {product} last spring and now the zip is broken, it has hardly been used. is "
        "this covered and what do you need from me? i still have the mail with order {number}"
    ),
    "can i pick it up in the shop in {city} tomorrow after work",
    "what's the weather like in {city} on {day}",
    # Croatian
    "gdje je moja narudžba {number}",
    "povrat novca kad",
    "imate li {product} na stanju u {city}",
    "stavite {count} komada {product} u košaricu molim",
    "paket je trebao stići u {day} a još ga nema, u praćenju piše samo da je zaprimljen",
    "mogu li platiti na rate i koliko najviše, kartica je od druge banke",
    "stigao mi je razbijen {product}, kutija je bila mokra, što sad trebam napraviti i kome poslati slike",
    "dobar dan, zanima me može li se adresa na narudžbi {number} promijeniti jer se selimo prije isporuke",
    "kolika je dostava do otoka",
    "ne radi mi kod za popust, piše da je istekao a dobila sam ga jučer",
    "trebam r1 račun za {number}",
    "želim razgovarati s nekim živim",
    "kako da vratim cipele koje su premale, račun više nemam ali imam mail potvrde",
    # Spanish
    "dónde está mi pedido {number}",
    "quiero devolverlo",
    "¿tenéis {product} en otra talla?",
    "ponme {count} de {product} en el carrito",
    "me habéis cobrado dos veces el pedido {number}, a ver si me podéis devolver uno de los cargos",
    "cuánto tarda el envío a {city} si pido hoy antes de las doce",
    (
        "el repartidor dice que lo entregó el {day} pero aquí no ha llegado nada y los vecinos tampoco lo "
        "tienen, llevo tres días esperando y necesito saber qué vais a hacer"
    ),
    "se puede pagar contra reembolso",
    "necesito cambiar la dirección de entrega, me equivoqué de portal",
    "el {product} llegó con la pantalla rota, quiero uno nuevo o que me devuelvan el dinero",
    "no me llega el correo para cambiar la contraseña",
    "gracias, ya está",
)
_PRODUCTS = (
    "blue mug", "rain jacket", "phone case", "oak shelf", "running shoes", "garden hose", "face cream",
    "coffee grinder", "cat food", "desk lamp", "backpack", "wool blanket", "usb charger", "yoga mat",
    "silver ring", "tea set", "kids helmet", "pillow 50x70", "olive oil 3l", "board game",
)  # fmt: skip
_CITIES = ("Zagreb", "Split", "Leeds", "Dublin", "Sevilla", "Valencia", "Graz", "Porto", "Utrecht")
_DAYS = ("monday", "tuesday", "friday", "utorak", "petak", "lunes", "jueves", "the 14th", "12.3.")
_OPENINGS = ("", "", "", "", "hi, ", "hey ", "hello! ", "bok, ", "hola, ", "pozdrav, ", "ok so ")
_CLOSINGS = (
    "",
    "",
    "",
    "",
    "?",
    "!",
    " thx",
    " please",
    " hvala",
    " gracias",
    " asap",
    " 🙏",
    " ...",
)


def customer_messages(seed: int) -> Iterator[str]:
    """Endless; every template once a turn, in a new order; the same for the same seed; no repeats."""
    choose = random.Random(seed)  # noqa: S311 - draws samples, not secrets
    seen: set[str] = set()
    while True:
        for template in choose.sample(_TEMPLATES, len(_TEMPLATES)):
            text = _fill(template, choose)
            while text in seen:
                text = f"{_fill(template, choose)} {choose.randrange(10**5)}"
            seen.add(text)
            yield text


def _fill(template: str, choose: random.Random) -> str:
    said = template.format(
        number=choose.choice(("", "#", "nr ")) + str(choose.randrange(10**4, 10**7)),
        product=choose.choice(_PRODUCTS),
        count=choose.randint(2, 9),
        city=choose.choice(_CITIES),
        day=choose.choice(_DAYS),
    )
    text = choose.choice(_OPENINGS) + said + choose.choice(_CLOSINGS)
    if choose.random() < 0.3:
        text = _mistyped(text, choose)
    return " ".join(text.split())  # two that differ in spaces only are one message to a cache


def _mistyped(text: str, choose: random.Random) -> str:
    """One letter left out, doubled or swapped with the next, as thumbs do."""
    if len(text) < 4:
        return text
    at = choose.randrange(1, len(text) - 1)
    kind = choose.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
