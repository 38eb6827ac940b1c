"""CSV that a spreadsheet opens safely: no cell becomes a formula, no number changes."""

from __future__ import annotations

import base64
import csv
import io
import math
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.csv_data import data_uri, format_csv, safe_cell

FORMULA = ("=", "+", "-", "@", "\t", "\r")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
NASTY = st.one_of(TEXT, st.tuples(st.sampled_from(FORMULA), TEXT).map("".join))


def plain_number(text: str) -> bool:
    """A second way to tell: what Python reads as a number, without its liberties."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text == text.strip() and "_" not in text


@given(NASTY)
def test_no_cell_starts_a_formula(text: str) -> None:
    cell = safe_cell(text)
    assert not cell.startswith(FORMULA) or plain_number(cell)
    assert cell in (text, f"'{text}")


@given(st.floats() | st.integers())
def test_numbers_keep_every_digit(value: float) -> None:
    cell = safe_cell(value)
    back = float(cell) if isinstance(value, float) else int(cell)
    assert back == value or (math.isnan(value) and math.isnan(back))


@given(st.lists(st.lists(NASTY, min_size=2, max_size=2), max_size=4))
def test_rows_come_back_from_the_link(rows: list[list[str]]) -> None:
    text = format_csv(("=a", "b"), rows)
    head, content = data_uri(text).split(",")
    assert head == "data:text/csv;charset=utf-8;base64"
    decoded = base64.b64decode(unquote(content)).decode()
    assert decoded == text
    # newline="" as a reader of a file has it: line ends inside cells stay what they are.
    assert list(csv.reader(io.StringIO(decoded, newline=""))) == [
        ["'=a", "b"],
        *([safe_cell(cell) for cell in row] for row in rows),
    ]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "True"),
        ("-", "'-"),
        ("-1", "-1"),
        ("+1e-3", "+1e-3"),
        ("-1_000", "'-1_000"),
        ("\t1", "'\t1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("٣", "٣"),
        ("+٣", "'+٣"),
    ],
)
def test_cells(value: object, cell: str) -> None:
    assert safe_cell(value) == cell
