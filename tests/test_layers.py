"""Imports point one way: cli -> predictor -> stability_probe, with records at the bottom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCAL = ("cli", "predictor", "stability_probe")
HEAVY = ("torch", "torchvision", "timm", "sklearn", "matplotlib")


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Absolute names of modules that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files("stability_probe"), ids=lambda p: p.stem)
def test_the_measuring_package_knows_nothing_above_it(path: Path) -> None:
    assert not {n.split(".")[0] for n in imports(path)} & {"cli", "predictor", "sklearn"} - (
        {"sklearn"} if path.stem in ("datasets", "crops") else set()
    )


@pytest.mark.parametrize("path", files("predictor"), ids=lambda p: p.stem)
def test_the_predictor_knows_no_command_line(path: Path) -> None:
    assert "cli" not in imports(path)


@pytest.mark.parametrize(
    "name",
    [
        "config",
        "records",
        "plain",
        "sealed",
        "metrics",
        "errors",
        "files",
        "memory",
        "store",
        "stored",
        "series",
        "advice",
        "progress",
    ],
)
def test_what_needs_no_torch_imports_none(name: str) -> None:
    assert not {n.split(".")[0] for n in imports(ROOT / "stability_probe" / f"{name}.py")} & {
        *HEAVY
    }


@pytest.mark.parametrize("path", files("stability_probe/schedulers"), ids=lambda p: p.stem)
def test_schedules_need_no_torch(path: Path) -> None:
    assert not {n.split(".")[0] for n in imports(path)} & {*HEAVY}


def test_only_a_step_calls_backward() -> None:
    callers = {
        path.stem
        for package in ("stability_probe", "predictor")
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "backward"
    }
    assert callers == {"step"}


def test_matplotlib_draws_in_plots_only() -> None:
    users = {
        path.stem
        for package in LOCAL[1:]
        for path in files(package)
        if any(n.startswith("matplotlib.") for n in imports(path))
    }
    assert users <= {"plots"}


def test_the_command_line_imports_nothing_heavy_at_its_top() -> None:
    assert not {n.split(".")[0] for n in imports(ROOT / "cli.py", top_level=True)} & {*HEAVY}


OPTIONAL = {
    "lightning": {"integrations/lightning.py"},
    "transformers": {"integrations/huggingface.py"},
    "accelerate": {"integrations/huggingface.py"},
    "ray": {"ray_cluster.py"},
}


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_imported_in_one_file(package: str) -> None:
    users = {
        str(path.relative_to(ROOT / name))
        for name in LOCAL[1:]
        for path in files(name)
        if package in {n.split(".")[0] for n in imports(path)}
    }
    assert users == OPTIONAL[package]


@pytest.mark.parametrize("path", files("stability_probe"), ids=lambda p: p.stem)
def test_nothing_but_integrations_needs_them(path: Path) -> None:
    if path.parent.name != "integrations":
        assert not any(n.startswith("stability_probe.integrations") for n in imports(path))


def test_the_package_itself_imports_nothing_heavy_at_its_top() -> None:
    found = imports(ROOT / "stability_probe" / "__init__.py", top_level=True)
    assert found == {"__future__", "importlib", "typing"}
