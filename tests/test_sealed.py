"""JSON with its checksum: what was damaged is never read as something else."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stability_probe.sealed import seal, unseal

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    NUMBERS | st.text() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text().filter(lambda name: name != "crc32"), VALUES, min_size=1)


@given(OBJECTS, st.sampled_from([None, 1]), st.sampled_from([b"", b"\n"]))
def test_it_comes_back(values: dict[str, Any], indent: int | None, end: bytes) -> None:
    text = seal(values, indent).encode()
    assert unseal(text + end) == values
    assert {k: v for k, v in json.loads(text).items() if k != "crc32"} == values


@given(OBJECTS, st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(values: dict[str, Any], data: Any) -> None:
    text = bytearray(seal(values).encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = unseal(bytes(text))
    except ValueError:
        return
    # Only the checksum's own name can have suffered; records refuse a name they do not know.
    assert values.items() <= read.items()
    assert len(read) == len(values) + 1


@given(OBJECTS, st.data())
def test_a_cut_text_is_found(values: dict[str, Any], data: Any) -> None:
    text = seal(values).encode()
    with pytest.raises(ValueError):  # noqa: PT011
        unseal(text[: data.draw(st.integers(0, len(text) - 1))])


def test_the_checksum_is_that_of_zlib() -> None:
    text = seal({"a": 1})
    assert text == f'{{"crc32": "{zlib.crc32(b"""{"a": 1}"""[1:]):08x}","a": 1}}'


def test_what_has_no_checksum_is_read_as_it_stands() -> None:
    assert unseal(b'{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="no JSON object"):
        unseal(b"[1]")


@pytest.mark.parametrize(
    "text",
    [
        *(b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"a": 1'),
        *(b'{"a": NaN}', b'{"a": -1e999}'),
    ],
)
def test_what_is_no_json_is_told(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        unseal(text)


def test_not_a_number_is_never_sealed() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        seal({"a": float("nan")})
