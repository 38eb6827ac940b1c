"""What a benchmark found, on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    """One JSON object, or a field a line."""
    if as_json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name.replace('_', ' '):24}{value}" for name, value in found.items()))
