"""When a corpus bears out a verdict: skill on families held out, or rows that are all alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

from predictor.candidates import BASELINES, CANDIDATES, BaseRate, Candidate, Learned
from predictor.corpus import CorpusRow
from predictor.decide import ADAPT_PROBABILITY, too_little_headroom
from predictor.estimator import Predictor
from predictor.examples import Example, make_examples, usable
from predictor.features import FEATURES
from predictor.held_out import Refits
from predictor.physical import CHOSEN, Estimates
from predictor.recipe import recipe_of
from predictor.skill import FEWEST_ALIKE, brier, describe, no_skill, only_verdict
from tests.predictor_factories import FAMILIES, make_corpus, make_corpus_row, outcome, with_delta

RECIPE = recipe_of(vars(make_corpus_row()))


def refits_of(*outcomes: tuple[str, float, float], candidate: Candidate) -> Refits:
    rows = [
        make_corpus_row(family=f, model=f, seed=i, **outcome(saved, delta))
        for i, (f, saved, delta) in enumerate(outcomes)
    ]
    return Refits(candidate, make_examples(rows))


def some_rows() -> list[CorpusRow]:
    """Four families, of which some rows lose accuracy."""
    rng = np.random.default_rng(2)
    return [
        dataclasses.replace(
            row, adaptive_accuracies=outcome(0.0, float(rng.normal()))["adaptive_accuracies"]
        )
        for row in make_corpus(rng, families=FAMILIES[:4], seeds=6)
    ]


def with_headroom(examples: list[Example]) -> list[Example]:
    return [e for e in examples if too_little_headroom(e.case, e.limits) is None]


def some_harmed() -> list[Example]:
    """Of the models with headroom half benefit, and half lose accuracy: the stabler ones."""
    families = tuple(f"{name}{part}" for name in FAMILIES for part in "xy")
    examples = make_examples(
        usable(make_corpus(np.random.default_rng(0), families=families, models=4))
    )
    stable = FEATURES.index("stability_score")
    middle = np.median([e.case.features[stable] for e in with_headroom(examples)])
    return [with_delta(e, -3.0 if e.case.features[stable] > middle else 1.0) for e in examples]


def test_skill_is_a_better_brier_score_than_the_base_rate() -> None:
    examples = some_harmed()
    gains = with_headroom(examples)
    assert len(gains) == len(examples) / 2
    base = Refits(BASELINES["majority"], gains)
    score = brier(base.leave_one_out(), gains)
    told = no_skill(base)
    assert f"no better than the base rate (Brier score {score:.3f} against {score:.3f}" in str(told)
    stability = Learned(columns=("stability_score",), classifier=lambda: Predictor(C=100.0))
    assert no_skill(Refits(stability, examples)) is None


def test_to_know_headroom_is_no_skill() -> None:
    """In each family one of four rows with headroom is harmed: the base rate of these is ¾, of all
    rows ⅜. Who tells ¾ where there is headroom knows no more than that."""
    examples = make_examples(
        usable(make_corpus(np.random.default_rng(0), families=FAMILIES, seeds=4))
    )
    gains = with_headroom(examples)
    harmed = {id(e) for i, e in enumerate(gains) if i % 4 == 0}
    mixed = [with_delta(e, -3.0 if id(e) in harmed else 1.0) for e in examples]
    assert len(gains) == len(examples) / 2
    told = no_skill(Refits(Learned(columns=("log_headroom",)), mixed))
    assert "better than the base rate" in str(told)
    assert "against 0.188" in str(told)


def right_where(examples: list[Example], known: list[bool]) -> Refits:
    """A candidate that knows the outcome of some examples, and is a hair worse than the base rate
    on the others."""
    base = Refits(BASELINES["majority"], examples).leave_one_out()
    truth = np.array([e.benefits for e in examples], float)
    worse = base.probability_of_benefit + 0.001 * (1 - 2 * truth)
    told = dataclasses.replace(base, probability_of_benefit=np.where(known, truth, worse))

    class Told(Refits):
        def leave_one_out(self) -> Estimates:
            return told

    return Told(CANDIDATES[CHOSEN], examples)


def alike(harmed: int, families: int, candidate: Candidate | None = None) -> Refits:
    """Two rows a family, which all gain; in some families both lose accuracy."""
    outcomes = [
        (f"f{i}", 30.0, -3.0 if i < harmed else 1.0) for i in range(families) for _ in range(2)
    ]
    return refits_of(*outcomes, candidate=candidate or BASELINES["majority"])


@pytest.mark.parametrize(
    ("harmed", "families", "only"),
    [
        (0, 10, "adapt"),
        (10, 10, "keep_fixed"),
        (0, FEWEST_ALIKE, "adapt"),
        (0, FEWEST_ALIKE - 1, None),
        (1, 20, "adapt"),
        (4, 20, None),  # 0.8, but less than 0.7 with other families
        (16, 20, None),
        (10, 20, None),
    ],
)
def test_where_all_are_alike_their_share_is_an_answer(
    harmed: int, families: int, only: str | None
) -> None:
    refits = alike(harmed, families)
    assert only_verdict(refits) == only
    assert (no_skill(refits) is None) == (only is not None)
    share = round(100 * (1 - harmed / families))
    told = describe(refits, RECIPE, verdicts=True)
    assert (f"{share} % of those with headroom benefited" in told) == (only is not None)


def test_so_many_alike_leave_the_others_to_a_verdict() -> None:
    """95 % confidence that the share is that of a verdict, by the binomial distribution."""
    for count, enough in ((FEWEST_ALIKE, True), (FEWEST_ALIKE - 1, False)):
        low = binomtest(count, count).proportion_ci(0.9, method="exact").low
        assert (low >= ADAPT_PROBABILITY) is enough


def test_a_prediction_surely_worse_than_their_share_is_no_answer() -> None:
    refits = alike(0, 10, _Half())
    assert only_verdict(refits) is None
    assert "no better than the base rate (Brier score 0.250 against 0.000)" in str(no_skill(refits))


def test_what_tells_models_apart_is_not_held_to_one_answer() -> None:
    names = [f"f{i}" for i in range(10)]
    examples = with_headroom(make_examples(make_corpus(np.random.default_rng(0), families=names)))
    mixed = [with_delta(e, -3.0 if i % 8 == 0 else 1.0) for i, e in enumerate(examples)]
    knows = right_where(mixed, [True] * len(mixed))
    assert (no_skill(knows), only_verdict(knows)) == (None, None)
    base = Refits(BASELINES["majority"], mixed)
    assert only_verdict(base) == "adapt"


def test_rows_without_headroom_are_no_skill() -> None:
    """Where nothing can be saved, to be right is trivial, and would pay for errors elsewhere."""
    rows = some_rows()
    flat = [
        dataclasses.replace(
            row,
            model=f"flat{i}",
            family=f"flat{i}",
            curve_samples_per_s=(100.0,) * len(row.curve_samples_per_s),
        )
        for i, row in enumerate(rows[:12])
    ]
    examples = make_examples([*rows, *flat])
    alike = [e.family.startswith("flat") for e in examples]
    assert "no better than the base rate" in str(no_skill(right_where(examples, alike)))
    assert no_skill(right_where(examples, [not a for a in alike])) is None
    assert "too little headroom" in str(no_skill(right_where(make_examples(flat), [True] * 12)))


def test_skill_by_one_family_alone_is_none() -> None:
    """Better in the mean by one of many families: another draw of families may lack it."""
    examples = with_headroom(some_harmed())
    one = [e.family == examples[0].family for e in examples]
    assert "not surely better" in str(no_skill(right_where(examples, one)))


def test_the_sentence_has_the_counts() -> None:
    refits = refits_of(
        ("a", 30.0, 1.0),
        ("b", 40.0, 1.0),
        ("c", 30.0, 1.0),
        ("c", 5.0, 1.0),
        candidate=BaseRate(),
    )
    # told of a: ⅔, of b: ⅔, of c: 1; so c alone is answered, half of it rightly
    assert describe(refits, RECIPE, verdicts=True) == (
        "4 paired full runs of 3 models in 3 families, over 4 epochs at a fixed learning rate, "
        "75 % with a benefit; families held out: 2 of 4 answered, 1 rightly (always the commoner "
        "answer: 1), mean error of time saved 14.6 points, 14.6 by the throughput curve"
    )
    case = dataclasses.replace(refits.examples[0].case, epochs=5)
    mixed = [dataclasses.replace(refits.examples[0], case=case), *refits.examples[1:]]
    of_two = describe(Refits(BaseRate(), mixed), RECIPE, verdicts=False)
    assert "3 families, over 4 to 5 epochs at a fixed learning rate, 75 % with a" in of_two
    slower = [dataclasses.replace(e, measured_saved_pct=-500.0) for e in refits.examples]
    by_curve = describe(Refits(BaseRate(), slower), RECIPE, verdicts=False)
    assert by_curve.rsplit(" time saved ", 1)[1] == "529.2 points, 14.6 by the throughput curve"
    silent = refits_of(
        ("a", 30.0, 1.0), ("b", 5.0, 1.0), ("c", 5.0, 1.0), ("a", 5.0, 1.0), candidate=_Half()
    )
    assert "0 of 4 answered, mean error" in describe(silent, RECIPE, verdicts=True)
    # Where every verdict is withheld, no answer is counted.
    assert "held out: mean error" in describe(refits, RECIPE, verdicts=False)


class _Half:
    def fit(self, examples: object) -> _Half:
        return self

    def estimates(self, cases: list[object]) -> Estimates:
        half = np.full(len(cases), 0.5)
        return Estimates(probability_of_benefit=half, time_saved_pct=half, accuracy_delta_pp=half)
