"""The fitted predictor as plain numbers: stored as JSON, read back without any library.

It is what `fit_predictor` makes of a corpus; no pickled estimator is ever written or read. A stored
fit belongs to the exact rows it was made of, which its key tells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predictor.corpus import CORPUS_READING, CorpusRow, corpus_path, known_paths, load_rows
from predictor.features import FEATURES, Case
from predictor.horizon import REACH
from predictor.known_models import KnownModel, OtherSeeds, known_models
from predictor.larger import LargerBatch, larger_batch
from predictor.likeness import CaseRange, case_range
from predictor.physical import (
    CHOSEN,
    ConstantHarm,
    Estimates,
    Intervals,
    Paths,
    intervals_around,
)
from predictor.recipe import KnownRecipe, Recipe, known_recipes, recipe_of, rows_like, rows_of
from stability_probe.errors import MissingError, RunError, UsageError
from stability_probe.files import write_text
from stability_probe.folders import cache_home
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import MeanStd
from stability_probe.sealed import seal, unseal
from stability_probe.words import counted

_FORMAT = 14
"""Of the stored numbers and of how they are computed: raised when either changes."""


@dataclass(frozen=True, kw_only=True)
class FittedPredictor:
    """Everything a prediction needs of its corpus."""

    key: str
    """Of the rows, the limits and the formulas that were applied to them; empty where it is not
    kept."""
    limits: Limits
    """What was taken for a benefit."""
    recipe: Recipe
    """Of the runs that it was made of."""
    run_epochs: tuple[int, int]
    """Length of the shortest run that it was made of, and of the longest."""
    harm_rate: float
    """Share of the rows' last epochs that lost more accuracy than a benefit may cost."""
    mean_delta_pp: float
    time_saved_half_width: float
    """Of the conformal interval, percentage points; infinite where rows are too few."""
    accuracy_delta_half_width: float
    known: CaseRange
    """How far the rows reach."""
    recipes: tuple[KnownRecipe, ...]
    """All of the corpus."""
    no_skill: str | None
    """Why the corpus bears out no verdict, None when it does."""
    only_verdict: str | None
    """The one verdict that it bears out, where it cannot tell models apart but all are alike."""
    why_only: str | None = None
    """Why not the other, where that is not the reason."""
    basis: str
    """What a prediction rests on, in a sentence."""
    larger: LargerBatch | None
    """What the corpus knows of a larger fixed batch."""
    models: tuple[KnownModel, ...]
    """What it measured, model by model."""
    other_seeds: tuple[OtherSeeds, ...]
    """What one seed of a model tells of the next, what two do, and so on."""

    def is_for(self, recipe: Recipe | None, epochs: int | None) -> bool:
        """Whether runs asked about would leave its rows as they are; see `rows_like`."""
        if recipe != self.recipe and recipe in {known.recipe for known in self.recipes}:
            return False
        shortest, longest = self.run_epochs
        return epochs is None or longest <= epochs <= REACH * shortest or epochs > REACH * longest

    def knowing(self, own: KnownModel | None) -> FittedPredictor:
        """For the next seed of a model whose `own` pairs it was made of; see `other_seeds`.

        Where they bear out nothing it only says so, and as it is for a model that has none.
        """
        told = self.told_by(own)
        if own is None or told is None:
            return self
        if told.silent:
            no_skill = self.no_skill and f"{self.no_skill}; {told.silent}"
            return dataclasses.replace(self, no_skill=no_skill)
        model = self._model.beside_own(
            own.num_seeds, harm_share=own.harm_share, mean_delta_pp=own.mean_end_delta_pp
        )
        seeds = counted(own.num_seeds, "seed")
        return dataclasses.replace(
            self,
            harm_rate=model.harm_rate,
            mean_delta_pp=model.mean_delta_pp,
            accuracy_delta_half_width=told.accuracy_delta_half_width,
            no_skill=None,
            only_verdict=told.only_verdict,
            why_only=told.why_only,
            basis=f"{seeds} of this model on the same data; in the corpus, {told.words}; all of "
            f"it: {self.basis}",
        )

    def told_by(self, own: KnownModel | None) -> OtherSeeds | None:
        """What so many seeds as a model's `own` pairs have tell of the next; None for none."""
        few = [o for o in self.other_seeds if own is not None and o.num_seeds <= own.num_seeds]
        return few[-1] if few else None

    def estimates(self, cases: Sequence[Case]) -> Estimates:
        """One a case, by the chosen candidate."""
        return self._model.estimates(cases)

    @property
    def _model(self) -> ConstantHarm:
        return ConstantHarm(
            paths=Paths(limits=self.limits),
            harm_rate=self.harm_rate,
            mean_delta_pp=self.mean_delta_pp,
        )

    def intervals(self, told: Estimates, cases: Sequence[Case]) -> Intervals:
        """Around the estimates of these cases."""
        widths = {
            "time_saved_pct": self.time_saved_half_width,
            "accuracy_delta_pp": self.accuracy_delta_half_width,
        }
        return intervals_around(told, cases, widths)


def fitted_predictor(
    corpus: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    without: Collection[str] = (),
) -> FittedPredictor:
    """Of `corpus`, else of the shipped and the user's rows: stored if it was made before.

    It is made for runs of a `recipe`, else of the commonest, and of so many `epochs`, else of as
    many as the rows have; `without` rows of these fixed runs. Raises `MissingError` for an unusable
    corpus.
    """
    paths = [corpus] if corpus else known_paths()
    if without:
        rows = load_rows(paths)
        kept = [row for row in rows if row.fixed_run_id not in without]
        if len(kept) < len(rows):
            return _fit(kept, limits, recipe, epochs)
    whole = _stored_or_made(paths, limits, None, None)
    if whole.is_for(recipe, epochs):
        return whole
    if recipe not in {known.recipe for known in whole.recipes}:
        recipe = None
    return _stored_or_made(paths, limits, recipe, epochs)


def _stored_or_made(
    paths: Sequence[Path], limits: Limits, recipe: Recipe | None, epochs: int | None
) -> FittedPredictor:
    key = _key(paths, limits, recipe, epochs)
    for stored in (corpus_path().with_name("fitted.json"), _cache_path(key)):
        fitted = _read(stored)
        if fitted is not None and fitted.key == key:
            return fitted
    fitted = fit_predictor(paths, limits, recipe=recipe, epochs=epochs)
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError, RunError):
        _cache_path(key).parent.mkdir(parents=True, exist_ok=True)
        write_text(_cache_path(key), to_json(fitted))
    return fitted


def fit_known(limits: Limits = DEFAULT_LIMITS) -> FittedPredictor:
    """Of the shipped and the user's rows, whatever is stored."""
    return fit_predictor(known_paths(), limits)


def fit_predictor(
    paths: Sequence[Path],
    limits: Limits = DEFAULT_LIMITS,
    *,
    recipe: Recipe | None = None,
    epochs: int | None = None,
) -> FittedPredictor:
    """Fit on the rows of these files, for runs of a recipe and of so many epochs; see `rows_like`.

    Raises `MissingError` when none is usable.
    """
    fitted = _fit(load_rows(paths), limits, recipe, epochs)
    return dataclasses.replace(fitted, key=_key(paths, limits, recipe, epochs))


def _fit(
    loaded: Sequence[CorpusRow], limits: Limits, recipe: Recipe | None, epochs: int | None
) -> FittedPredictor:
    from predictor.candidates import CANDIDATES
    from predictor.examples import make_examples, usable
    from predictor.held_out import Refits, half_widths
    from predictor.other_seeds import what_they_tell
    from predictor.skill import describe, only_verdict
    from predictor.verdicts import lengths_of, why_none

    speaking = rows_like(loaded, recipe, epochs)
    # Which runs have learned, or diverged, by then is asked of the runs as they were by then.
    rows = usable(speaking) or rows_of(usable(loaded), recipe)
    if not rows:
        raise MissingError(
            "the corpus holds no finished pair of runs of DEBA in its reading "
            f"{CORPUS_READING['reading']}; use another corpus"
        )
    examples = make_examples(rows, limits)
    refits = Refits(CANDIDATES[CHOSEN], examples)
    model = CANDIDATES[CHOSEN].fit(examples)
    if not isinstance(model, ConstantHarm) or model.paths.paths:
        raise TypeError(f"a stored fit cannot hold {CHOSEN}")
    widths = half_widths(refits)
    lengths = lengths_of(rows_of(loaded, recipe), limits)
    silent = why_none(refits, lengths)
    made_of = recipe_of(vars(rows[0]))
    return FittedPredictor(
        key="",
        limits=limits,
        recipe=made_of,
        run_epochs=(min(r.epochs for r in rows), max(r.epochs for r in rows)),
        harm_rate=model.harm_rate,
        mean_delta_pp=model.mean_delta_pp,
        time_saved_half_width=widths["time_saved_pct"],
        accuracy_delta_half_width=widths["accuracy_delta_pp"],
        known=case_range([e.case for e in examples]),
        recipes=known_recipes(loaded),
        no_skill=silent,
        only_verdict=only_verdict(refits),
        basis=describe(refits, made_of, verdicts=silent is None),
        larger=larger_batch(speaking, limits),
        models=known_models(rows, limits),
        other_seeds=what_they_tell(refits, lengths),
    )


def to_json(fitted: FittedPredictor) -> str:
    """As JSON text with its checksum; what is not finite becomes null."""
    return seal(_replaced(dataclasses.asdict(fitted)), indent=2) + "\n"


def _replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _replaced(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: Path) -> FittedPredictor | None:
    """A stored fit; None where there is none, or a damaged one."""
    try:
        values = unseal(path.read_bytes())
        for name in ("time_saved_half_width", "accuracy_delta_half_width"):
            values[name] = _read_width(values[name])
        values["known"] = _read_range(values["known"])
        values["recipe"] = Recipe(**values["recipe"])
        values["run_epochs"] = tuple(values["run_epochs"])
        values["limits"] = Limits(**values["limits"])
        values["larger"] = None if values["larger"] is None else LargerBatch(**values["larger"])
        values["recipes"] = tuple(_read_recipe(recipe) for recipe in values["recipes"])
        values["models"] = tuple(_read_model(model) for model in values["models"])
        values["other_seeds"] = tuple(_read_seeds(told) for told in values["other_seeds"])
        return FittedPredictor(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError):
        return None


def _read_width(value: Any) -> float:
    return math.inf if value is None else float(value)


def _read_range(values: dict[str, Any]) -> CaseRange:
    ends = {
        name: tuple(math.nan if v is None else float(v) for v in values[name])
        for name in ("feature_low", "feature_high")
    }
    if {len(end) for end in ends.values()} != {len(FEATURES)}:
        raise ValueError("another number of features")
    return CaseRange(**ends, updates_per_epoch=tuple(values["updates_per_epoch"]))


def _read_recipe(values: dict[str, Any]) -> KnownRecipe:
    return KnownRecipe(
        recipe=Recipe(**values["recipe"]),
        lr=tuple(values["lr"]),
        epochs=tuple(values["epochs"]),
    )


def _read_model(values: dict[str, Any]) -> KnownModel:
    recipe, delta = Recipe(**values.pop("recipe")), MeanStd(**values.pop("accuracy_delta_pp"))
    return KnownModel(recipe=recipe, accuracy_delta_pp=delta, **values)


def _read_seeds(values: dict[str, Any]) -> OtherSeeds:
    width = _read_width(values.pop("accuracy_delta_half_width"))
    return OtherSeeds(accuracy_delta_half_width=width, **values)


def _key(paths: Sequence[Path], limits: Limits, recipe: Recipe | None, epochs: int | None) -> str:
    formulas = f"{_FORMAT} {CHOSEN} {CORPUS_READING} {FEATURES} {limits} {recipe} {epochs}"
    digest = hashlib.sha256(formulas.encode())
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise MissingError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _cache_path(key: str) -> Path:
    return cache_home() / f"fitted-{key[:16]}.json"
