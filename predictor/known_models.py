"""What DEBA did to the accuracy of the very model that is asked about, where the corpus knows.

For the reader alone: how well it would predict is not what families held out can show. Time is left
out, since it depends on the device and can be told; see `predictor.physical`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from predictor.corpus import CorpusRow, in_order
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
    recipe: Recipe
    lr: float
    batch_size: int
    epochs: int
    num_pairs: int
    accuracy_delta_pp: MeanStd
    harms: int
    """Pairs that lost more accuracy than a benefit may."""

    def words(self, limits: Limits) -> str:
        """For a person; `limits` are those that it was made with."""
        return (
            f"{signed(self.accuracy_delta_pp)} points on {self.data} "
            f"({counted(self.num_pairs, 'seed')}, {self.epochs} epochs; more than "
            f"{limits.max_accuracy_loss_pp:g} lost in {self.harms})"
        )


def known_models(
    rows: Iterable[CorpusRow], limits: Limits = DEFAULT_LIMITS
) -> tuple[KnownModel, ...]:
    """Of rows of DEBA, in a fixed order."""
    groups: dict[tuple[object, ...], list[CorpusRow]] = {}
    for row in in_order(rows):
        own = (row.model, row.num_params, row.num_macs, row.data, recipe_of(vars(row)))
        groups.setdefault((*own, row.lr, row.fixed_batch_sizes[0], row.epochs), []).append(row)
    return tuple(_known(group, limits) for group in groups.values())


def _known(rows: Sequence[CorpusRow], limits: Limits) -> KnownModel:
    first = rows[0]
    return KnownModel(
        model=first.model,
        num_params=first.num_params,
        num_macs=first.num_macs,
        data=first.data,
        recipe=recipe_of(vars(first)),
        lr=first.lr,
        batch_size=first.fixed_batch_sizes[0],
        epochs=first.epochs,
        num_pairs=len(rows),
        accuracy_delta_pp=metrics.mean_std([row.accuracy_delta_pp for row in rows]),
        harms=sum(metrics.loses_accuracy(row.accuracy_delta_pp, limits) for row in rows),
    )


def measured_before(
    c: Characterization, known: Iterable[KnownModel], limits: Limits = DEFAULT_LIMITS
) -> str | None:
    """What is known of this model at its recipe, rate and batch, in words; None where nothing is.

    On its own data set, or on all others where that one was not measured: they tell little of it
    (`python -m tests.benchmarks.another_run`), and the words say so.
    """
    own = recipe_of(c.config)
    alike = [
        k
        for k in known
        if (k.model, k.num_params) == (c.config["model"], c.num_params)
        and (c.size is None or k.num_macs == c.size.num_macs)
        and (k.recipe, k.batch_size) == (own, c.config["batch_size"])
        and math.isclose(k.lr, c.config["lr"], rel_tol=1e-5)
    ]
    same = [k for k in alike if k.data == c.config["data"]]
    if not alike:
        return None
    told = "; ".join(k.words(limits) for k in same or alike)
    of_others = "" if same else ", which says little of other data"
    return f"DEBA changed this model's accuracy by {told}{of_others}"
