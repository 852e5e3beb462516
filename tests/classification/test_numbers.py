"""Numbers in a message, whatever they are written in."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.classification.numbers import numbers_in


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("562x memory cards, 256gb", {562, 256}),
        ("twenty-five apples", {25}),
        ("two hundred and forty three", {243}),
        ("two dozen eggs and half a dozen rolls", {2, 24, 6}),
        ("a dozen", {12}),
        ("a couple of teas", {2}),
        ("dodaj dvadeset i pet piva", {25}),
        ("dvjesto tri komada", {203}),
        ("dvije stotine pet", {205}),
        ("sto jedan i tri", {101, 3}),
        ("trideset i jednu vodu", {31}),
        ("četrdeset dva", {42}),
        ("cetrdeset dva", {42}),
        ("pola tuceta jaja", {6}),
        ("veintidós quesos", {22}),
        ("ciento veintitrés", {123}),
        ("treinta y una aguas", {31}),
        ("novecientas noventa y nueve", {999}),
        ("media docena de huevos y dos docenas de panes", {6, 2, 24}),
        ("TRES Y DOS", {3, 2}),
        ("order 58213, 1000 times, 0 left", set()),
        ("put some tea in", set()),
        ("3 dozen eggs", {3, 36}),
        ("three dozen eggs", {3, 36}),
        ("2 docenas y media de huevos", {2, 30}),
        ("dos docenas y media docena", {2, 24, 6}),
        ("one and a half dozen rolls", {1, 18}),
        ("a dozen and a half", {18}),
        ("a dozen and half a loaf", {12}),
        ("tucet i pol jaja", {18}),
        ("1½ dozen and ½ docena", {1, 18, 6}),
        ("2 hundred mugs, 3 hundred and five bowls", {200, 305}),
        ("eggs twenty, five breads", {20, 5}),
        ("jaja trideset\ndva mlijeka", {30, 2}),
        ("leche treinta. cinco panes", {30, 5}),
        ("two hundred, three hundred", {200, 300}),
        ("diez y seis huevos", {16}),
        ("diez y dos", {10, 2}),
        ("10 m² of turf, 20 five-packs", {10, 20, 5}),
        ("šestero jaja i po jedan od triju", {6, 1, 3}),
        ("a pair of socks and 3", {2, 3}),
        ("treintaidós tazas, cuarentaicinco, treintaycinco, veinti cinco", {32, 45, 35, 25}),
        ("dvadesetpet jaja, dvadesetipet, stopedeset, stodvadesetpet", {25, 150, 125}),
        ("twentyfive mugs, fortyeight; cientoveinte, dvjestotri", {25, 48, 120, 203}),
        ("četvoro, šestoro, dvaju, četirima, dvi, jedanest, petnest", {4, 6, 2, 11, 15}),
        ("stolar, petsto, threesome, dvadesetak, cientos, someone", {500}),
        ("veinte de cinco litros y treinta y dos de dos", {20, 5, 32, 2}),
        ("twenty of two and cien de cinco, dvadeset a pet", {20, 2, 100, 5}),
        ("mugs two and a hundred napkins", {2, 100}),
        ("caja dva i stotinu vrecica", {2, 100}),
        ("two half dozens of eggs, a half-dozen rolls", {2, 12, 6}),
        ("tres medias docenas y dva pol tuceta", {3, 18, 2, 12}),
        ("1/2 dozen eggs and 2 1 / 2 docenas", {6, 2, 30}),
        ("1/2 kg, 1/2 a dozen, 11/2 dozen", {1, 2, 6, 11, 24}),
        ("a couple dozen eggs, a pair and a dozen", {24, 2, 12}),
        ("par tuceta jaja", {24}),
        ("un par de docenas y media", {1, 30}),
        ("a couple and half a dozen", {2, 6}),
        ("dodaj ono što sam htio: dvije kave", {2}),
        ("Što imate? STO salveta", {100}),
        ("još i treće pivo, trece tazas", {13}),
    ],
)
def test_numbers_are_read(message: str, told: set[int]):
    """Digits and words, joined as they are spoken; what no quantity can be is left out."""
    assert set(numbers_in(message)) == told


def test_a_number_counts_as_often_as_it_is_told():
    """In digits or words alike."""
    assert numbers_in("3 teas, three mugs and 4x 3-pack socks") == {3: 3, 4: 1}
    assert numbers_in("dvije kave i 2 caja") == {2: 2}


@given(st.text())
@example("❶ ² ٣")
def test_any_text_is_read(message: str):
    """All of Unicode, digits of other scripts too: never an error, never a number out of range."""
    assert all(1 <= number <= 999 for number in numbers_in(message))


@pytest.mark.parametrize("piece", ["a ", "y ", "of a ", "half a ", "1/2 ", "two and ", "i", "sto"])
def test_time_grows_with_the_length_only(piece: str):
    """Eight times the text takes nowhere near 64 times the time: the event loop reads it."""

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        best = 1e9
        for _ in range(3):
            started = time.process_time()
            numbers_in(text)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(8_000) < 24 * max(seconds(1_000), 0.001)
