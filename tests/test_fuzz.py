"""Every file that is read, damaged in every way that comes to mind: told in a line, or read.

Bytes are flipped, cut, zeroed and doubled under the readers; values are exchanged for others
under the commands that read what was stored, where a checksum no longer protects. Many more cases
than here: python -m tests.benchmarks.fuzz
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import COMMANDS, READERS, fault_of, read_damaged, run_with_odd

DRAWING = ("plot", "report")
SEEDS = st.integers(0, 2**32)


def cases(number: int) -> settings:
    # The same ones every time: what is found here is of this change, not of chance.
    return settings(
        max_examples=number,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.mark.parametrize("kind", READERS)
@cases(60)
@given(seed=SEEDS)
def test_damaged_bytes_are_told_or_read(
    kind: str, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    read_damaged(kind, seed, tmp_path_factory.mktemp("bytes"))


@pytest.mark.parametrize("kind", READERS)
def test_most_damage_is_noticed(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """So the damage is real, and the readers look. Pixels and blanks may be anything."""
    told = [read_damaged(kind, s, tmp_path_factory.mktemp("bytes")) for s in range(40)]
    assert sum(map(bool, told)) >= 20


@pytest.fixture
def _elsewhere(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_HOME", f"{tmp_path}/home")


def assert_told_or_shown(command: str, seed: int, folders: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders.mktemp("odd"))
        done = run_with_odd(command, seed)
        assert fault_of(done, shows_the_rest=command == "runs") is None


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(DRAWING)])
@cases(60)
@given(seed=SEEDS)
def test_odd_values_are_told_or_shown(
    command: str, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    assert_told_or_shown(command, seed, tmp_path_factory)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(DRAWING)])
@cases(10)
@given(seed=SEEDS)
def test_odd_values_are_told_or_drawn(
    command: str, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    assert_told_or_shown(command, seed, tmp_path_factory)
