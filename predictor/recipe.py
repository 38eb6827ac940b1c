"""The recipe of a run, and which recipes a corpus speaks for.

Precision and weight decay are not asked about: the one changes how fast the device is, which the
throughput curve measures, and no run has shown that the other matters here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.corpus import CorpusRow
from predictor.examples import usable
from predictor.horizon import REACH, rows_for

MARGIN = 4.0
"""Factor by which a rate, or the updates of an epoch, may lie outside those of the corpus."""

FEWEST_FAMILIES = 3
"""Whose runs tell anything of a recipe: with one held out, two are left to learn from."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What two runs must have in common for one to speak for the other; see `RunConfig`."""

    optimizer: str
    lr_schedule: str
    lr_rule: str
    momentum: float
    reset_moments: bool
    window_epochs: int


@dataclass(frozen=True, kw_only=True)
class KnownRecipe:
    """One recipe of a corpus, and how widely it was tried."""

    recipe: Recipe
    lr: tuple[float, float]
    """Smallest and largest base rate."""
    epochs: tuple[int, int]


_NAMES = tuple(f.name for f in dataclasses.fields(Recipe))


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of a `RunConfig` as plain values; only SGD reads `momentum`."""
    recipe = Recipe(**{name: values[name] for name in _NAMES})
    # As many digits as a row keeps.
    momentum = float(f"{recipe.momentum:.6g}") if recipe.optimizer == "sgd" else 0.0
    return dataclasses.replace(recipe, momentum=momentum)


def known_recipes(rows: Iterable[CorpusRow]) -> tuple[KnownRecipe, ...]:
    """The recipes that usable rows of `FEWEST_FAMILIES` have, in a fixed order."""
    return tuple(
        KnownRecipe(
            recipe=recipe,
            lr=(min(r.lr for r in group), max(r.lr for r in group)),
            epochs=(min(r.epochs for r in group), max(r.epochs for r in group)),
        )
        for recipe, group in sorted(
            _usable_by_recipe(rows).items(), key=lambda item: dataclasses.astuple(item[0])
        )
        if _are_enough(group)
    )


def rows_like(
    rows: Sequence[CorpusRow], recipe: Recipe | None, epochs: int | None
) -> list[CorpusRow]:
    """What rows say of runs of this recipe, and of so many epochs; see `rows_of` and `rows_for`."""
    return rows_for(rows_of(rows, recipe), epochs)


def rows_of(rows: Sequence[CorpusRow], recipe: Recipe | None) -> list[CorpusRow]:
    """Rows of a recipe; where too few are usable, or for None, those of the commonest.

    Rows of two recipes are never pooled: what came of the one is no evidence for the other.
    """
    groups = _usable_by_recipe(rows)
    enough = {known: group for known, group in groups.items() if _are_enough(group)} or groups
    if not enough:
        return list(rows)
    if recipe not in enough:
        recipe = max(enough, key=lambda known: (len(enough[known]), dataclasses.astuple(known)))
    return [row for row in rows if recipe_of(vars(row)) == recipe]


def _usable_by_recipe(rows: Iterable[CorpusRow]) -> dict[Recipe, list[CorpusRow]]:
    groups: dict[Recipe, list[CorpusRow]] = {}
    for row in usable(rows):
        groups.setdefault(recipe_of(vars(row)), []).append(row)
    return groups


def _are_enough(rows: Sequence[CorpusRow]) -> bool:
    return len({row.family for row in rows}) >= FEWEST_FAMILIES


def unlike_recipes(config: Mapping[str, Any], known: Sequence[KnownRecipe]) -> str | None:
    """Why no known recipe speaks for a run's `config`, None where one does."""
    own = recipe_of(config)
    few = "the corpus holds too few runs with"
    for like in known:
        if like.recipe == own:
            return too_far(config["lr"], "learning rate", "--lr", like.lr) or _outside(
                config["epochs"], "number of epochs", "--epochs", *_lengths(like)
            )
    for name in _NAMES:
        if getattr(own, name) not in {getattr(like.recipe, name) for like in known}:
            return f"{few} {words_of(own, name)}"
    together = ", ".join(words_of(own, name) for name in _NAMES)
    return f"{few} all of this at once: {together}"


def too_far(value: float, what: str, flags: str, known: tuple[float, float]) -> str | None:
    """Why a value is over `MARGIN` times the largest known, or under that part of the smallest."""
    return _outside(value, what, flags, known[0] / MARGIN, known[1] * MARGIN)


def _lengths(like: KnownRecipe) -> tuple[float, float]:
    """Fewest and most epochs that its runs speak for: any shorter run, where the rate is constant
    (see `predictor.horizon`), and runs not much longer."""
    constant = like.recipe.lr_schedule == "fixed"
    fewest = like.recipe.window_epochs if constant else like.epochs[0] / REACH
    return fewest, REACH * like.epochs[1]


def _outside(value: float, what: str, flags: str, low: float, high: float) -> str | None:
    if low <= value <= high:
        return None
    return f"its {what} is {value:g}, and the corpus speaks for {low:g} to {high:g}; see {flags}"


def words_of(recipe: Recipe, name: str) -> str:
    """One field of a recipe, for a person."""
    value = getattr(recipe, name)
    match name:
        case "lr_schedule":
            return f"a {value} learning rate"
        case "lr_rule":
            return f"the learning rate rule {value}"
        case "momentum":
            return f"momentum {value:g}"
        case "reset_moments":
            return "moments that are emptied" if value else "moments that are kept"
        case "window_epochs":
            return f"a window of {value} epochs"
        case _:
            return str(value)
