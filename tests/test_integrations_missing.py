"""Without an extra: one clear sentence at use, and the rest of the package works."""

from __future__ import annotations

import importlib
import sys

import pytest

import stability_probe.integrations
from stability_probe.errors import MissingError

EXTRAS = [("lightning", "lightning.pytorch"), ("huggingface", "transformers")]


@pytest.mark.parametrize(("extra", "package"), EXTRAS)
def test_a_missing_extra_is_told_in_one_sentence(
    extra: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"stability_probe.integrations.{extra}"
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(stability_probe.integrations, extra, raising=False)
    with pytest.raises(MissingError, match=rf"pip install 'stability-probe\[{extra}\]'") as told:
        importlib.import_module(name)
    assert "\n" not in str(told.value)
