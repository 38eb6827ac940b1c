"""What DEBA did to the accuracy of the very model that is asked about, where the corpus knows.

Time is left out, since it depends on the device and can be told; see `predictor.physical`. What
pairs on the same data are worth as evidence, `predictor.other_seeds` shows; those on other data are
for the reader alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from predictor.corpus import CorpusRow, in_order
from predictor.examples import make_examples
from predictor.recipe import Recipe, recipe_of
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Characterization, MeanStd
from stability_probe.words import counted, signed


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """DEBA's full runs of one model on one data set, alike in all but the seed."""

    model: str
    num_params: int
    num_macs: int
    """Of an image: another size of image has another number."""
    data: str
    num_train: int
    num_test: int
    recipe: Recipe
    lr: float
    weight_decay: float
    precision: str
    batch_size: int
    max_batch_size: int
    epochs: int
    num_pairs: int
    num_seeds: int
    """Several pairs of one seed, as of two machines, tell no more than one."""
    accuracy_delta_pp: MeanStd
    harms: int
    """Pairs that lost more accuracy than a benefit may."""
    harm_share: float
    """The same of their last epochs, had the runs stopped there."""
    mean_end_delta_pp: float
    """Change of accuracy, over the same epochs."""

    def words(self, limits: Limits) -> str:
        """For a person; `limits` are those that it was made with."""
        return (
            f"{signed(self.accuracy_delta_pp)} points on {self.num_train} samples of {self.data} "
            f"({counted(self.num_pairs, 'pair')} of runs, {self.epochs} epochs; more than "
            f"{limits.max_accuracy_loss_pp:g} lost in {self.harms})"
        )


@dataclass(frozen=True, kw_only=True)
class OtherSeeds:
    """What so many seeds of a model tell of its next one; see `predictor.other_seeds`."""

    num_seeds: int
    silent: str | None
    """Why they bear out no verdict, None where they do."""
    only_verdict: str | None
    """The one that they bear out, None for both."""
    why_only: str | None
    """Why not the other."""
    accuracy_delta_half_width: float
    """Of the conformal interval, percentage points; infinite where pairs are too few."""
    words: str
    """How often verdicts came true, for a person."""


def known_models(
    rows: Iterable[CorpusRow], limits: Limits = DEFAULT_LIMITS
) -> tuple[KnownModel, ...]:
    """Of rows of DEBA, in a fixed order."""
    groups: dict[tuple[object, ...], list[CorpusRow]] = {}
    for row in in_order(rows):
        groups.setdefault(row.all_but_seed, []).append(row)
    return tuple(_known(group, limits) for group in groups.values())


def _known(rows: Sequence[CorpusRow], limits: Limits) -> KnownModel:
    first, examples = rows[0], make_examples(rows, limits)
    return KnownModel(
        model=first.model,
        num_params=first.num_params,
        num_macs=first.num_macs,
        data=first.data,
        num_train=first.num_train,
        num_test=first.num_test,
        recipe=recipe_of(vars(first)),
        lr=first.lr,
        weight_decay=first.weight_decay,
        precision=first.precision,
        batch_size=first.fixed_batch_sizes[0],
        max_batch_size=first.max_batch_size,
        epochs=first.epochs,
        num_pairs=len(rows),
        num_seeds=len({row.seed for row in rows}),
        accuracy_delta_pp=metrics.mean_std([row.accuracy_delta_pp for row in rows]),
        harms=sum(metrics.loses_accuracy(row.accuracy_delta_pp, limits) for row in rows),
        harm_share=float(np.mean([e.harm_share for e in examples])),
        mean_end_delta_pp=float(np.mean([e.mean_end_delta_pp for e in examples])),
    )


def measured_before(
    c: Characterization, known: Iterable[KnownModel], limits: Limits = DEFAULT_LIMITS
) -> str | None:
    """What is known of this model at its recipe, rate and batch, in words; None where nothing is.

    On its own data set, or on all others where that one was not measured: they tell little of it
    (`python -m tests.benchmarks.another_run`), and the words say so.
    """
    alike = [k for k in known if _is_model(k, c)]
    same = [k for k in alike if k.data == c.config["data"]]
    if not alike:
        return None
    told = "; ".join(k.words(limits) for k in same or alike)
    of_others = "" if same else ", which says little of other data"
    return f"DEBA changed this model's accuracy by {told}{of_others}"


def own_pairs(c: Characterization, known: Iterable[KnownModel]) -> KnownModel | None:
    """Pairs that differ from the runs asked about in the seed alone; None where there are none."""
    for k in known:
        same = {name: c.config[name] for name in ("data", "precision", "epochs")} | {
            "num_train": c.num_train,
            "num_test": c.num_test,
            "max_batch_size": c.max_batch_size,
        }
        if (
            _is_model(k, c)
            and all(getattr(k, name) == value for name, value in same.items())
            and _is_rounded(k.weight_decay, c.config["weight_decay"])
        ):
            return k
    return None


def _is_model(k: KnownModel, c: Characterization) -> bool:
    """At the same recipe, rate and batch."""
    return (
        (k.model, k.num_params) == (c.config["model"], c.num_params)
        and (c.size is None or k.num_macs == c.size.num_macs)
        and (k.recipe, k.batch_size) == (recipe_of(c.config), c.config["batch_size"])
        and _is_rounded(k.lr, c.config["lr"])
    )


def _is_rounded(kept: float, value: float) -> bool:
    """A row keeps six digits."""
    return math.isclose(kept, value, rel_tol=1e-5)
