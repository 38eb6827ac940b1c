"""Which recipes a corpus speaks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from predictor.corpus import CorpusRow
from predictor.recipe import MARGIN, known_recipes, recipe_of, rows_like, rows_of, unlike_recipes
from stability_probe.config import RunConfig
from tests.predictor_factories import make_corpus_row


def of_families(count: int, **values: Any) -> list[CorpusRow]:
    return [make_corpus_row(family=f"family {i}", **values) for i in range(count)]


KNOWN = known_recipes(
    [
        *of_families(2, lr=0.01, epochs=50, window_epochs=4),
        *of_families(3, lr=0.04, epochs=60, window_epochs=4),
        *of_families(3, lr_schedule="cosine", lr=0.02, epochs=40, window_epochs=4),
        *of_families(3, optimizer="adamw", lr=0.001, epochs=50, window_epochs=4),
        *of_families(2, optimizer="adamw", lr_schedule="step", epochs=50, window_epochs=4),
    ]
)


def told(**fields: Any) -> str | None:
    values = {"model": "resnet10t", "epochs": 50, "window_epochs": 4, "lr": 0.01, **fields}
    return unlike_recipes(RunConfig(**values).to_dict(), KNOWN)


def test_rows_of_one_recipe_are_one() -> None:
    assert [(k.recipe.optimizer, k.recipe.lr_schedule, k.lr, k.epochs) for k in KNOWN] == [
        ("adamw", "fixed", (0.001, 0.001), (50, 50)),
        ("sgd", "cosine", (0.02, 0.02), (40, 40)),
        ("sgd", "fixed", (0.01, 0.04), (50, 60)),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lr_schedule": "cosine"},
        {"optimizer": "adamw", "lr": 0.002},
        {"optimizer": "adamw", "lr": 0.002, "momentum": 0.0},  # which it does not read
        {"precision": "bfloat16"},
        {"weight_decay": 0.0},
        {"data": "crops", "batch_size": 64, "seed": 7, "compile": True},
        {"lr": 0.01 / MARGIN},
        {"lr": 0.04 * MARGIN},
        {"epochs": 120},  # twice the longest
        {"epochs": 4},  # a shorter run at a constant rate is the beginning of a longer one
        {"lr_schedule": "cosine", "lr": 0.02, "epochs": 20},
        {"lr_schedule": "cosine", "lr": 0.02, "epochs": 80},
    ],
)
def test_what_the_corpus_speaks_for(fields: dict[str, Any]) -> None:
    assert told(**fields) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"lr_schedule": "step"},
            "the corpus holds too few runs with a step learning rate",
        ),
        ({"momentum": 0.5}, "the corpus holds too few runs with momentum 0.5"),
        (
            {"lr_rule": "linear"},
            "the corpus holds too few runs with the learning rate rule linear",
        ),
        (
            {"reset_moments": True},
            "the corpus holds too few runs with moments that are emptied",
        ),
        (
            {"window_epochs": 5},
            "the corpus holds too few runs with a window of 5 epochs",
        ),
        ({"lr": 0.161}, "its learning rate is 0.161, and the corpus speaks for 0.0025 to 0.16"),
        (
            {"lr": 0.0024},
            "its learning rate is 0.0024, and the corpus speaks for 0.0025 to",
        ),
        (
            {"epochs": 121},
            "its number of epochs is 121, and the corpus speaks for 4 to 120; see --epochs",
        ),
        (
            {"lr_schedule": "cosine", "lr": 0.02, "epochs": 19},
            "its number of epochs is 19, and the corpus speaks for 20 to 80; see --epochs",
        ),
        ({"lr_schedule": "cosine", "lr": 0.1}, "the corpus speaks for 0.005 to 0.08; see --lr"),
    ],
)
def test_what_the_corpus_does_not_speak_for(fields: dict[str, Any], words: str) -> None:
    assert words in (told(**fields) or "")


def test_two_settings_that_were_never_tried_together() -> None:
    """AdamW was run, and so was a cosine rate; that says nothing of both."""
    words = told(optimizer="adamw", lr_schedule="cosine", lr=0.001)
    assert words is not None
    assert words.startswith(
        "the corpus holds too few runs with all of this at once: adamw, a cosine"
    )


def test_every_field_of_a_recipe_is_one_of_a_run_and_of_a_row() -> None:
    config, row = RunConfig(model="resnet10t").to_dict(), make_corpus_row()
    for field in dataclasses.fields(recipe_of(config)):
        assert field.name in config
        assert hasattr(row, field.name)


def test_an_empty_corpus_speaks_for_nothing() -> None:
    assert (
        unlike_recipes(RunConfig(model="m").to_dict(), ())
        == "the corpus holds too few runs with sgd"
    )


FIXED = of_families(4, epochs=8)
COSINE = of_families(3, epochs=8, lr_schedule="cosine")
BUSY = of_families(9, optimizer="adamw", curve_busy=True)
ONE_FAMILY = [make_corpus_row(seed=seed, lr_rule="sqrt") for seed in range(9)]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (None, FIXED),
        (FIXED[0], FIXED),
        (COSINE[0], COSINE),
        (BUSY[0], FIXED),  # no prediction counts any of them
        (ONE_FAMILY[0], FIXED),
        (make_corpus_row(lr_schedule="step"), FIXED),
    ],
)
def test_what_came_of_another_recipe_is_no_evidence(
    asked: CorpusRow | None, kept: list[CorpusRow]
) -> None:
    recipe = asked and recipe_of(vars(asked))
    rows = [*COSINE, *BUSY, *ONE_FAMILY, *FIXED]
    assert rows_of(rows, recipe) == kept
    assert rows_of(rows[::-1], recipe) == kept[::-1]
    assert [row.epochs for row in rows_like(rows, recipe, 4)] == [
        8 if row.lr_schedule == "cosine" else 4 for row in kept
    ]


def test_rivals_are_of_the_recipe_of_the_rows_of_deba() -> None:
    """However many of another there are."""
    timed = [make_corpus_row(seed=s, scheduler="timed", scheduler_args="{}") for s in range(2)]
    others = [dataclasses.replace(row, lr_schedule="cosine") for row in timed * 3]
    assert rows_of([*others, *FIXED, *timed], None) == [*FIXED, *timed]
    assert rows_of(others, None) == others
    assert rows_of([*COSINE[:1], *FIXED[:2]], None) == FIXED[:2], "the best there is"


def test_of_two_recipes_as_common_it_is_always_the_same() -> None:
    rows = [*FIXED[:3], *COSINE]
    assert rows_of(rows, None) == rows_of(rows[::-1], None)[::-1]
