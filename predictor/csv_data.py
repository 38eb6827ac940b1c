"""Rows as CSV that a spreadsheet opens safely, and as a link that holds them."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


def safe_cell(value: Any) -> str:
    """A value as text that no spreadsheet reads as a formula: an apostrophe goes before one.

    Numbers stay as they are, every digit of them; None is empty.

    >>> safe_cell(-0.5), safe_cell("-1e-3"), safe_cell("=1+1"), safe_cell(None)
    ('-0.5', '-1e-3', "'=1+1", '')
    """
    if value is None:
        return ""
    text = str(value)
    return f"'{text}" if text.startswith(_STARTS_FORMULA) and not _NUMBER.fullmatch(text) else text


def format_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under their columns' names, each cell as `safe_cell` has it."""
    buffer = io.StringIO()
    # Lines end in \r\n, so that the writer quotes a cell that holds either of the two.
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([safe_cell(name) for name in columns])
    writer.writerows([safe_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def data_uri(text: str) -> str:
    """The CSV inside its own address: a link to it needs no file and no network."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
