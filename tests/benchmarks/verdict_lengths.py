"""Which verdict the shipped corpus bears out of runs of many lengths, and what holds at once.

    python -m tests.benchmarks.verdict_lengths [--max-accuracy-loss 2] [--json]

Share of benefits with the bounds that a verdict by it alone must pass; *adapt* as it would have
been said on families held out, rightly of those told, before and after that is itself asked; in how
many rows the intervals of time and of accuracy hold, each and both at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from predictor.candidates import CANDIDATES, Candidate
from predictor.corpus import CorpusRow, load_corpus
from predictor.held_out import MEASURED, Refits, nested_intervals
from predictor.horizon import can_be_cut
from predictor.physical import CHOSEN
from predictor.skill import benefits_of, no_skill, only_verdict, outcomes_of, share_of_benefits
from predictor.verdicts import lengths_of, verdicts, why_none
from stability_probe.limits import DEFAULT_LIMITS, Limits

LENGTHS = (*range(10, 31), 35, 40, 50, 60)
"""Epochs."""


def describe(
    rows: Sequence[CorpusRow],
    epochs: int,
    limits: Limits,
    candidate: Candidate = CANDIDATES[CHOSEN],
) -> dict[str, Any]:
    """Of rows of one length, families held out."""
    lengths = lengths_of(rows, limits)
    refits = Refits(candidate, lengths(epochs))
    benefits = benefits_of(refits.examples) == 1
    found: dict[str, Any] = {
        "rows": len(benefits),
        "share_of_benefits": share_of_benefits(refits),
        "no_skill": no_skill(refits),
        "only": only_verdict(refits),
        "why_none": why_none(refits, lengths),
    }
    for key, checked in (("before", None), ("after", lengths)):
        adapt = np.array(verdicts(refits, checked)) == "adapt"
        found[key] = {"adapt": int(adapt.sum()), "right": int((adapt & benefits).sum())}
    ends = nested_intervals(refits)
    inside = {}
    for outcome, measured in MEASURED.items():
        low, high = getattr(ends, outcome).T
        truth = outcomes_of(refits.examples, measured)
        inside[outcome] = (low <= truth) & (truth <= high)
    inside["both"] = np.all([*inside.values()], axis=0)
    found["inside"] = {name: int(holds.sum()) for name, holds in inside.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    loss = DEFAULT_LIMITS.max_accuracy_loss_pp
    parser.add_argument("--max-accuracy-loss", type=float, default=loss)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [r for r in load_corpus() if r.lr_schedule == "fixed" and can_be_cut(r)]
    limits = Limits(max_accuracy_loss_pp=args.max_accuracy_loss)
    found = {epochs: describe(rows, epochs, limits) for epochs in LENGTHS}
    if args.json:
        print(json.dumps(found, indent=2, default=asdict))
        return
    print("epochs  benefits          before    after  time  acc. both  of | verdicts")
    for epochs, f in found.items():
        share, inside = f["share_of_benefits"], f["inside"]
        before, after = (f"{f[key]['right']}/{f[key]['adapt']}" for key in ("before", "after"))
        bounds = f"[{share.low:.2f},{share.high:.2f}]"
        print(
            f"{epochs:6}  {share.value:.2f} {bounds}{before:>10}{after:>9}"
            f"{inside['time_saved_pct']:6}{inside['accuracy_delta_pp']:6}{inside['both']:5}"
            f"{f['rows']:4} | {_told(f)}"
        )


def _told(found: dict[str, Any]) -> str:
    if found["no_skill"]:
        return "none: no skill"
    if reason := found["why_none"]:
        return f"none: {'too seldom right' if 'came true' in reason else 'not of lengths near'}"
    return found["only"] or "by skill"


if __name__ == "__main__":
    main()
