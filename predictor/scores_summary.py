"""An evaluation as JSON for programs and as tables for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from predictor.corpus import END_EPOCHS
from predictor.evaluate import CandidateScores, Evaluation
from predictor.recipe import words_of
from predictor.refit import Refit, Skill
from predictor.scores import Score
from predictor.stability_scores import WINDOWS, ScoreFormula
from stability_probe.plain import to_plain
from stability_probe.records import MeanStd
from stability_probe.words import counted

_SHOWN_WINDOW = 4
_FLOOR = "least possible †"


def evaluation_json(e: Evaluation) -> dict[str, Any]:
    """The object that `probe evaluate --json` prints."""
    return _bounded(to_plain(e), "cases")


def evaluation_tables(e: Evaluation) -> Group:
    """What `probe evaluate` prints, 80 columns wide."""
    counts = ", ".join(f"{count} {name}" for name, count in e.class_counts.items())
    if e.num_diverged:
        counts += f" ({e.num_diverged} diverged)"
    if e.num_stuck:
        counts += f"; {e.num_stuck} more learned nothing and are left out"
    head = (
        f"{e.num_rows} rows, {e.num_models} models, {e.num_families} families: {counts}\n"
        f"runs with {words_of(e.recipe, 'optimizer')} and {words_of(e.recipe, 'lr_schedule')}\n"
        f"a benefit: {e.limits.words}\n"
        "families held out; [ ] 90 % bootstrap interval over families"
    )
    chosen = f"* what probe predicts with; by the score on the other families {_picks(e)}"
    if e.floor.num_rows:
        chosen += (
            "\n† of a prediction that is the same for all seeds of a model and data set, since\n"
            "seeds differ by twice as much; of the "
            f"{e.floor.num_rows} rows that have another seed,\n"
            f"where {e.chosen} has a Brier score of {_interval(e.brier_beside_floor, 3)}"
        )
    parts: list[RenderableType] = [
        Text(head),
        _verdict_table(e),
        Text(chosen, "dim"),
        _outcome_table(e),
        Text(_replay_line(e), "dim"),
        *_horizon_parts(e),
        _contrast_table(e),
        Text("below 0: less error with it", "dim"),
        _arm_table(e),
        Text("by the throughput curve; DEBA minus the arm, same seeds", "dim"),
        Text("same: runs with DEBA's own batch sizes, epoch by epoch", "dim"),
        _model_table(e),
        Text(
            "mean ± SD over seeds and data;\nrank correlation of headroom with time saved "
            f"{_interval(e.rank_headroom)}",
            "dim",
        ),
    ]
    if e.other_seeds:
        parts += [
            _seeds_table(e),
            Text(
                "pairs told by other seeds of the same model and data; all other models count\n"
                "as one seed more; base: of always telling the share of benefits among those",
                "dim",
            ),
        ]
    parts += [_harm_table(e), Text(_end_line(e), "dim")]
    if e.shares:
        parts.append(_share_table(e))
        first = next(iter(e.shares.values()))
        told = f"of {first.num_models} models, {first.num_data} data sets, {first.num_seeds} seeds"
        parts.append(Text(f"share of the variance, {told}", "dim"))
    if e.stability_scores:
        parts += [
            _formula_table(e.stability_scores),
            Text(
                "variance between architectures over that between seeds, by epochs of the window;\n"
                f"rank correlation of the score at {_SHOWN_WINDOW} epochs with what was gained",
                "dim",
            ),
        ]
    blank = [item for part in parts for item in ((Text(), part) if _is_table(part) else (part,))]
    return Group(*blank)


def refit_json(r: Refit) -> dict[str, Any]:
    """The object that `probe fit --json` prints."""
    return _bounded(to_plain(r), "own")


def refit_tables(r: Refit) -> Group:
    """The screen that `probe fit` prints."""
    skills = (("the shipped rows", r.shipped), ("and yours", r.together))
    rows = (
        (
            name,
            str(s.num_rows),
            str(s.num_families),
            f"{s.brier:.3f}",
            f"{s.brier_base_rate:.3f}",
            f"{s.time_saved_mae:.1f}",
        )
        for name, s in skills
    )
    columns = ("families held out", "rows", "families", "Brier", "base rate", "time, points")
    own = _table(
        ("your rows, told by the shipped", "P(benefit)", "benefit", "time told", "time saved"),
        (
            (
                f"{c.model} {c.data} {c.seed}",
                f"{c.probability_of_benefit:.2f}",
                "yes" if c.benefits else "no",
                f"{c.time_saved_told_pct:.0f} [{c.time_saved_interval_pct[0]:.0f},"
                f"{c.time_saved_interval_pct[1]:.0f}]",
                f"{c.time_saved_pct:.0f} %",
            )
            for c in r.own
        ),
    )
    told = "no rows of your own; add some with probe corpus add RUN_ID\n"
    if r.own_brier is not None:
        told = (
            f"on your {len(r.own)} rows: Brier {r.own_brier:.3f}, error of time saved "
            f"{r.own_time_saved_mae:.1f} points, {100 * (r.own_coverage or 0):.0f} % inside "
            "their intervals\n"
        )
    told += _verdicts(r.together)
    skill = _table(columns, rows if r.own else list(rows)[:1])
    return Group(*((own, Text()) if r.own else ()), skill, Text(), Text(told))


def _verdicts(s: Skill) -> str:
    """Which verdicts the rows bear out."""
    told = "verdicts can be given"
    if s.no_skill:
        told = f"every verdict abstains: {s.no_skill}"
    elif s.only_verdict:
        one = s.only_verdict.replace("_", " ")
        told = f"the only verdict is {one}: nearly all rows agree, and none is told from another"
    for seeds in s.other_seeds:
        of = f"of a model with {counted(seeds.num_seeds, 'seed')} on the same data"
        only = seeds.only_verdict and seeds.only_verdict.replace("_", " ")
        can = f"the only verdict is {only}, {seeds.why_only}" if only else "verdicts can be given"
        told += f"\n{of}: {seeds.silent or f'{can}; {seeds.words}'}"
    return told


def _bounded(values: dict[str, Any], cases: str) -> dict[str, Any]:
    """Too few families for the level leave an interval without ends: null in JSON."""
    for told in _all_other_seeds(values):
        if not math.isfinite(told["accuracy_delta_half_width"]):
            told["accuracy_delta_half_width"] = None
    for case in values[cases]:
        for name in ("time_saved_interval_pct", "accuracy_delta_interval_pp"):
            case[name] = [end if math.isfinite(end) else None for end in case[name]]
    return values


def _all_other_seeds(values: dict[str, Any]) -> list[dict[str, Any]]:
    skills = (values, *(values[key] for key in ("shipped", "together") if key in values))
    return [told for skill in skills for told in skill.get("other_seeds", ())]


def _is_table(part: RenderableType) -> bool:
    return isinstance(part, Table)


def _verdict_table(e: Evaluation) -> Table:
    rows = [(_name(s, e), _interval(s.brier, 3), _interval(s.log_loss), *_two(s)) for s in e.scores]
    if e.floor.num_rows:
        rows.append((_FLOOR, _interval(e.floor.brier, 3), "", "", ""))
    return _table(("benefit", "Brier", "log loss", "balanced %", "abstained %"), rows)


def _two(s: CandidateScores) -> tuple[str, str]:
    return _percent(s.balanced_accuracy), _percent(s.abstained)


def _outcome_table(e: Evaluation) -> Table:
    rows = [
        (
            _name(s, e),
            _interval(s.time_saved_mae, 1),
            _coverage(s.time_saved_coverage, s.time_saved_width, 0),
            _interval(s.accuracy_delta_mae, 1),
            _coverage(s.accuracy_delta_coverage, s.accuracy_delta_width, 1),
        )
        for s in e.scores
    ]
    least = (_interval(s, 1) for s in (e.floor.time_saved_mae, e.floor.accuracy_delta_mae))
    if e.floor.num_rows:
        rows.append((_FLOOR, next(least), "", next(least), ""))
    return _table(("error", "time, points", "covered", "accuracy", "covered"), rows)


def _horizon_parts(e: Evaluation) -> list[RenderableType]:
    if not e.horizons:
        return []
    rows = (
        (
            str(h.epochs),
            _interval(h.time_saved_pct, 0),
            _signed(h.accuracy_delta_pp, 1),
            _interval(h.harms),
            _plain(h.benefits, 2),
            _plain(h.brier, 3),
            _plain(h.brier_of_base_rate, 3),
            f"{h.adapt_right}/{h.adapt}",
            f"{h.keep_fixed_right}/{h.keep_fixed}",
        )
        for h in e.horizons
    )
    columns = ("epochs", "saved %", "points", "lost", "benefit", "Brier", "base", "adapt", "keep")
    return [
        _table(columns, rows),
        Text(
            "the same runs cut to so many epochs; "
            f"lost: more than {e.limits.max_accuracy_loss_pp:g} points\n"
            "base: Brier score of always telling the share of benefits among the others\n"
            "adapt, keep: right verdicts of those given, by a corpus without the family",
            "dim",
        ),
    ]


def _contrast_table(e: Evaluation) -> Table:
    rows = (
        (c.name, _signed(c.brier, 3), _signed(c.time_saved_mae, 1), _signed(c.accuracy_delta_mae))
        for c in e.contrasts
    )
    return _table(("what adds", "Brier", "time", "accuracy"), rows)


def _arm_table(e: Evaluation) -> Table:
    rows = (
        (
            a.name,
            str(a.num_rows),
            _interval(a.time_saved_pct, 0),
            _signed(a.accuracy_delta_pp, 1),
            _plain(a.benefits, 2),
            _signed(a.deba_saves_more_pct, 0),
            _signed(a.deba_more_accurate_pp, 1),
            "-" if a.same_batches is None else str(a.same_batches),
        )
        for a in e.arms
    )
    columns = ("arm", "runs", "saved %", "points", "benefit", "DEBA %", "DEBA points", "same")
    return _table(columns, rows)


def _model_table(e: Evaluation) -> Table:
    rows = (
        (
            m.model.removeprefix("torchvision:"),
            str(m.num_rows),
            f"{m.headroom:.1f}x",
            _with_sd(m.stability_score, 2),
            _with_sd(m.time_saved_pct, 0),
            _with_sd(m.accuracy_delta_pp, 1, "+"),
            str(m.benefits),
        )
        for m in e.models
    )
    columns = ("DEBA", "runs", "headroom", "stability", "saved %", "points", "benefit")
    return _table(columns, rows)


def _seeds_table(e: Evaluation) -> Table:
    rows = (
        (
            str(s.num_seeds),
            str(s.num_pairs),
            _short(s.brier, 3),
            _short(s.brier_of_base_rate, 3),
            _signed(s.difference, 3),
            f"{s.adapt_right}/{s.adapt}",
            f"{s.keep_fixed_right}/{s.keep_fixed}",
        )
        for s in e.other_seeds
    )
    columns = ("told by other seeds", "pairs", "Brier", "base", "difference", "adapt", "keep")
    return _table(columns, rows)


def _harm_table(e: Evaluation) -> Table:
    rows = (
        ("DEBA beside the fixed run of its seed", e.harm.deba, e.harm.deba_averaged),
        (
            "a fixed run beside that of another seed",
            *(e.harm.another_seed, e.harm.another_seed_averaged),
        ),
        ("a fixed run's last epoch beside the one before", e.harm.one_epoch, None),
    )
    beyond = (_signed(s) for s in (e.harm.beyond_luck, e.harm.beyond_luck_averaged))
    lost = f"more than {e.limits.max_accuracy_loss_pp:g} points lost"
    columns = (lost, "last epoch", f"mean of last {END_EPOCHS}")
    told = [(name, *map(_interval, shares)) for name, *shares in rows]
    return _table(columns, [*told, ("DEBA minus another seed, of rows with both", *beyond)])


def _end_line(e: Evaluation) -> str:
    fixed, deba = (_interval(s, 1) for s in (e.harm.fixed_scatter_pp, e.harm.deba_scatter_pp))
    return (
        "points by which the accuracy moves from epoch to epoch at the end:\n"
        f"of the fixed runs {fixed}, of DEBA's {deba}"
    )


def _share_table(e: Evaluation) -> Table:
    names = {"time_saved_pct": "time saved", "accuracy_delta_pp": "accuracy change"}
    rows = (
        (
            names[name],
            *(f"{v:.2f}" for v in (s.architectures, s.data_sets, s.both, s.seeds)),
            f"{s.sd:.1f}",
        )
        for name, s in e.shares.items()
    )
    return _table(("", "architecture", "data set", "both", "seed", "SD"), rows)


def _formula_table(formulas: Sequence[ScoreFormula]) -> Table:
    at = {(f.name, f.window): f for f in formulas}
    rows = []
    for name in dict.fromkeys(f.name for f in formulas):
        known = [at.get((name, w)) for w in WINDOWS]
        shown = at.get((name, _SHOWN_WINDOW))
        rows.append(
            (
                name,
                *(_plain(f.repeatability, 1) if f else "" for f in known),
                _interval(shown.rank_time_saved) if shown else "",
                _interval(shown.rank_accuracy) if shown else "",
            )
        )
    return _table(("score 1 / (1 + x)", *map(str, WINDOWS), "with time", "with accuracy"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _name(s: CandidateScores, e: Evaluation) -> str:
    return f"{s.name} *" if s.name == e.chosen else s.name


def _picks(e: Evaluation) -> str:
    picked = sorted(set(e.selections.values()))
    counts = [f"{p} {sum(v == p for v in e.selections.values())}" for p in picked]
    return f"would pick {', '.join(counts)}"


def _replay_line(e: Evaluation) -> str:
    r = "undefined" if e.replay_correlation is None else f"{e.replay_correlation:.2f}"
    beside = [
        f"{_name(s, e)} errs by {_interval(s.time_saved_mae_measured, 1)}"
        for s in e.scores
        if s.name in ("majority", e.chosen)
    ]
    return (
        "time by the run's batch sizes on the throughput curve; beside measured seconds\n"
        f"{' and '.join(beside)}\n"
        "covered: share of what was measured in the nominal 90 % interval, and its width\n"
        f"a run's own batch sizes on the curve beside measured time saved: r = {r}, mean "
        f"difference {e.replay_mae:.1f} points"
    )


def _interval(s: Score | None, digits: int = 2) -> str:
    if s is None:
        return "-"
    return _with_ends(s, lambda v: _short(v, digits))


def _signed(s: Score | None, digits: int = 2) -> str:
    if s is None:
        return "-"
    return _with_ends(s, lambda v: _short(v, digits, "+"))


def _coverage(share: Score | None, width: Score | None, digits: int) -> str:
    return f"{_plain(share, 2)} of {_plain(width, digits)}"


def _plain(s: Score | None, digits: int) -> str:
    return "-" if s is None else _short(s.value, digits)


def _percent(s: Score | None) -> str:
    """A share in percent."""
    if s is None:
        return "-"
    return _with_ends(s, lambda v: f"{100 * v:.0f}")


def _with_ends(s: Score, words: Callable[[float], str]) -> str:
    """An interval that is not known, of rows of one family, is left out."""
    ends = f" [{words(s.low)},{words(s.high)}]"
    return words(s.value) + ("" if math.isnan(s.low) else ends)


def _with_sd(m: MeanStd, digits: int, sign: str = "-") -> str:
    spread = "" if m.std is None else f"±{m.std:.{digits}f}"
    return f"{m.mean:{sign}.{digits}f}{spread}"


def _short(value: float, digits: int, sign: str = "-") -> str:
    """Without the leading zero, as there are many columns."""
    # What is zero but for rounding has a sign that depends on the processor.
    text = f"{value if abs(value) > 1e-9 else 0.0:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
