"""A study as JSON for programs and as one screen for people."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stability_probe.limits import DEFAULT_LIMITS
from stability_probe.paired import detectable_sd
from stability_probe.plain import to_plain
from stability_probe.records import ArmOutcome, Difference, MeanStd, Study

_CLOCKS = {"cpu_s": "CPU seconds", "time_s": "wall clock"}


def study_json(study: Study) -> dict[str, Any]:
    """The object that `probe compare --json` and `probe ablate --json` print."""
    return dict(to_plain(study))


def study_table(study: Study) -> Group:
    """The screen of `probe compare` and `probe ablate`."""
    parts: list[RenderableType] = [_head(study), Text(), _arms_table(study), _footnote(study)]
    if study.contrasts:
        parts += [Text(), _contrasts_table(study)]
    if study.claims:
        parts.append(Text())
    parts += [
        Text.assemble((f"{claim.verdict}: ", "bold"), f"{claim.text} ({claim.reason})")
        for claim in study.claims
    ]
    return Group(*parts, Text(), Text(study.advice, "bold"))


def _head(study: Study) -> Text:
    config = study.config
    seeds = ", ".join(map(str, study.seeds))
    return Text.assemble(
        (str(config["model"]), "bold"),
        f" on {config['data']}, {config['epochs']} epochs, batch {config['batch_size']}, "
        f"{config['optimizer']} at {config['lr']:g}, seeds {seeds}\n"
        f"{_where(study)}, {_CLOCKS[study.clock]}; "
        f"differences are against {study.reference}, paired by seed",
    )


def _where(study: Study) -> str:
    if len(study.machines) > 1:
        return " and ".join(study.machines)
    return study.environment.get("device_name", "")


def _arms_table(study: Study) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    columns = ("", "time s", "saved %", "curve %", "acc. %", "points", "target", "updates", "MiB")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for arm in study.arms:
        table.add_row(Text(arm.name), *_cells(arm))
    return table


def _cells(arm: ArmOutcome) -> list[str]:
    if arm.time_s is None or arm.accuracy is None:
        return [arm.status]
    percent = MeanStd(
        mean=100 * arm.accuracy.mean,
        std=None if arm.accuracy.std is None else 100 * arm.accuracy.std,
    )
    peak = arm.peak_memory_bytes
    return [
        f"{arm.time_s.mean:.0f}",
        _difference(arm.time_saved_pct, 0),
        _difference(arm.curve_saved_pct, 0),
        _with_std(percent, 1),
        _difference(arm.accuracy_delta_pp, 1),
        _target(arm),
        f"{arm.updates:.0f}",
        "" if peak is None else f"{peak / 2**20:.0f}",
    ]


def _difference(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return ""
    sign = "+" if digits else ""
    spread = "" if difference.std is None else f"±{difference.std:.{digits}f}"
    mark = "*" if difference.larger_than_noise else " "
    return f"{difference.mean:{sign}.{digits}f}{spread}{mark}"


def _with_std(value: MeanStd, digits: int) -> str:
    spread = "" if value.std is None else f"±{value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def _target(arm: ArmOutcome) -> str:
    """Median seconds over the seeds, or how many missed it."""
    reached = [s for s in arm.time_to_target_s if s is not None]
    missed = len(arm.time_to_target_s) - len(reached)
    return f"miss {missed}" if missed else f"{statistics.median(reached):.0f}"


def _footnote(study: Study) -> Text:
    busy = " (MACHINE BUSY: do not trust it)" if study.curve.busy else ""
    lines = [
        "mean ± SD over seeds; saved: as measured; target: median seconds until the",
        "reference's accuracy - 0.5, with misses; curve: saved by the batch sizes and the",
        f"throughput curve of {study.curve.device_name or 'this machine'}{busy}",
    ]
    if study.noise_time_pct is not None and study.noise_accuracy_pp is not None:
        lines.append(
            f"noise floor, another order of samples: {study.noise_time_pct:.1f} % of the time, "
            f"{study.noise_accuracy_pp:.1f} points"
        )
    if len(study.machines) > 1:
        lines.append(
            "no saved % between runs of two machines; time s and target are each run's own"
        )
    tested = len({arm.run_ids for arm in study.arms if arm.accuracy_delta_pp is not None})
    least = detectable_sd(len(study.seeds), 1)
    if study.detectable_sd is not None and least is not None:
        lines.append(
            f"* larger than the noise: paired t-test, Holm's correction for {tested} comparisons;\n"
            f"with {len(study.seeds)} seeds a mean of {study.detectable_sd:.1f} SD is always "
            f"enough, one below {least:.1f} never"
        )
    else:
        lines.append("one seed: no difference can be told from noise; use --seeds 0,1,2 or more")
    if study.limits != DEFAULT_LIMITS:
        lines.append(f"to be used an arm needs {study.limits.words}")
    return Text("\n".join(lines), "dim")


def _contrasts_table(study: Study) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("deba against", "saved %", "curve %", "points"):
        table.add_column(column, justify="left" if "against" in column else "right")
    for contrast in study.contrasts:
        table.add_row(
            contrast.name,
            _difference(contrast.time_saved_pct, 0),
            _difference(contrast.curve_saved_pct, 0),
            _difference(contrast.accuracy_delta_pp, 1),
        )
    return table
