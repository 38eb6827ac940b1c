"""JSON text that carries its own checksum, so that a flipped bit is no silently wrong number.

A sealed object has its CRC-32 as first member, over all that follows it. What has none (written
by an earlier version, printed by a command, made by hand) is read as it stands.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

_SEAL = re.compile(rb'\{"crc32": "([0-9a-f]{8})",')


def seal(values: Mapping[str, Any], indent: int | None = None) -> str:
    """One JSON object with its checksum. Raises `ValueError` for a number that is not finite."""
    rest = json.dumps(values, indent=indent, allow_nan=False)[1:]
    return f'{{"crc32": "{zlib.crc32(rest.encode()):08x}",{rest}'


def unseal(text: bytes) -> dict[str, Any]:
    """The object without its checksum.

    Raises `ValueError` when it is damaged, no object, or holds a number that is not finite.
    """
    text = text.rstrip(b"\n")
    sealed = _SEAL.match(text)
    if sealed is not None and int(sealed[1], 16) != zlib.crc32(text[sealed.end() :]):
        raise ValueError(
            "its checksum does not match; if you edited it, take out its first member, crc32"
        )
    try:
        values = json.loads(text.decode(), parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    if (values.pop("crc32", None) is None) is not (sealed is None):
        raise ValueError("its checksum is damaged")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
