"""The suite where our users are: other Pythons, oldest versions, each extra alone.

    nox -f tests/noxfile.py -s oldest                # what pyproject.toml admits at the least
    nox -f tests/noxfile.py -s newest -p 3.13        # what pip finds today, for one Python
    nox -f tests/noxfile.py -s extra                 # every extra without the others

An environment holds torch (some 6 GB) and is deleted when its session is over.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[1]
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS: dict[str, tuple[str, list[str]]] = {
    "ray": ("ray", ["-m", "ray", "tests/test_sweep.py"]),
    "tensorboard": ("tensorboard", ["tests/test_trackers.py"]),
    "mlflow": ("mlflow", ["tests/test_trackers.py"]),
    "wandb": ("wandb", ["tests/test_trackers.py"]),
    "lightning": ("lightning", ["tests/test_integrations_lightning.py", "tests/test_export.py"]),
    "huggingface": (
        "transformers",
        ["tests/test_integrations_huggingface.py", "tests/test_export.py"],
    ),
}
"""Module that the extra brings, and the tests that need it."""


def oldest_versions(*extras: str) -> list[str]:
    """The direct requirements, each at its lower bound."""
    wanted = list(PROJECT["dependencies"])
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    return [re.sub(r">=", "==", requirement) for requirement in wanted]


def finish(session: nox.Session) -> None:
    shutil.rmtree(session.virtualenv.location, ignore_errors=True)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The whole suite with the lowest versions that are admitted."""
    session.chdir(ROOT)
    session.install(*oldest_versions("test", "lightning", "huggingface"), ".[test]")
    session.run("pytest", *session.posargs)
    finish(session)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The whole suite with the newest versions, for each Python that is there."""
    session.chdir(ROOT)
    session.install(".[test,lightning,huggingface,tensorboard]")
    session.run("pytest", *session.posargs)
    finish(session)


@nox.session(python="3.11")
@nox.parametrize("name", list(EXTRAS))
def extra(session: nox.Session, name: str) -> None:
    """One extra without the others: it installs, it imports, its tests pass."""
    session.chdir(ROOT)
    module, tests = EXTRAS[name]
    session.install(f".[{name}]")
    session.run("python", "-c", f"import {module}, stability_probe, predictor")
    session.install(".[test]")
    session.run("pytest", *tests, *session.posargs)
    finish(session)
