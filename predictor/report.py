"""One page for people: everything that is stored of one model or several, in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import stability_probe
from predictor.page import Report, Section, Table
from predictor.report_grounds import held_out_part
from predictor.report_probe import probe_section
from predictor.report_run import run_section
from predictor.report_study import study_section, validation_section
from predictor.scores import load_held_out
from stability_probe.errors import MissingError
from stability_probe.files import check_output, write_text
from stability_probe.records import RunResult, Study, Validation
from stability_probe.stored import Stored, load_stored

_MARK = '<meta name="generator" content="probe report">'
"""By which an earlier report is known: nothing else is ever overwritten."""
_RANKED = ("model", "answer", "time saved", "accuracy, points", "headroom", "how known", "from a")


def write_report(names: Sequence[str], out: Path, root: Path) -> Report:
    """Write what is stored under these names as one HTML file, which needs nothing else to open.

    A name is a run in `root`, its folder, or a file that holds a run, a characterization, a study
    or a validation. Raises `UsageError` for an unknown name and for an `out` that is no report,
    `MissingError` for damaged files, `RunError` for a folder that is not there.
    """
    check_output(out, "report", _MARK)
    report = _arrange([_shown(f"m{number}", name, root) for number, name in enumerate(names, 1)])
    write_text(out, render(report))
    return report


def make_report(stored: Sequence[Stored], root: Path) -> Report:
    """What the page shows: the model that gains most first. The same input gives the same page.

    Runs that belong together are looked for in `root`.
    """
    return _arrange([_section(f"m{number}", s, root) for number, s in enumerate(stored, 1)])


def _arrange(unordered: Sequence[Section]) -> Report:
    sections = sorted(unordered, key=_rank)
    told = any(s.kind in ("probe", "validation") for s in sections)
    return Report(
        title=", ".join(dict.fromkeys(s.title for s in sections)),
        sections=tuple(sections),
        ranking=_ranking(sections) if len(sections) > 1 else None,
        shared=(held_out_part("all", load_held_out()),) if told else (),
        version=stability_probe.__version__,
    )


def render(report: Report) -> str:
    """The page as HTML. All text is escaped; only the figures are not, which are drawn here."""
    environment = Environment(
        loader=PackageLoader("predictor", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(report=report) + "\n"


def _shown(key: str, name: str, root: Path) -> Section:
    """The section of what is stored under a name."""
    stored = load_stored(name, root)
    try:
        return _section(key, stored, root)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Its fields have the right names, or it would not be loaded; their values do not fit.
        raise MissingError(
            f"{name} cannot be shown ({type(error).__name__}: {error}); it is damaged, or was "
            "stored by another version"
        ) from error


def _section(key: str, stored: Stored, root: Path) -> Section:
    if isinstance(stored, RunResult):
        return run_section(key, stored, root)
    if isinstance(stored, Study):
        return study_section(key, stored)
    if isinstance(stored, Validation):
        return validation_section(key, stored)
    return probe_section(key, stored, root)


def _rank(section: Section) -> tuple[int, float]:
    saved = section.gain.time_saved_pct
    return section.gain.group, float("inf") if saved is None else -saved


def _ranking(sections: Sequence[Section]) -> Table:
    rows = tuple(
        (
            f"{place}. {s.title}",
            s.verdict.words,
            s.gain.time_saved,
            s.gain.accuracy,
            s.gain.headroom,
            s.gain.known,
            s.kind,
        )
        for place, s in enumerate(sections, 1)
    )
    return Table(
        caption="Those that gain come first, then those where it is not known, then those better "
        "left alone; each by time saved. In brackets: predicted intervals",
        columns=_RANKED,
        rows=rows,
        words=(0, 1, 5, 6),
    )
