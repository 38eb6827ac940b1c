"""What a report is made of: finished words, figures and tables, which the template only sets."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Download:
    """The data behind a figure or table."""

    name: str
    """Of the file."""
    rows: int
    href: str
    """A data: URI."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawing, with its data."""

    title: str
    alt: str
    """What is to be seen, in numbers."""
    svg: Markup
    data: Download
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as they are shown; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    """Columns of words; the others hold numbers and are set to the right."""
    data: Download | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number with its name and its meaning."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What stands under one heading."""

    title: str
    text: tuple[str, ...] = ()
    """Paragraphs."""
    facts: tuple[Fact, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    downloads: tuple[Download, ...] = ()
    """Beside those of figures and tables."""
    commands: tuple[str, ...] = ()
    """To be typed."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer, before everything else."""

    words: str
    tone: str
    """good, plain, unsure or bad: how it is set."""
    reason: str
    facts: tuple[Fact, ...] = ()
    advice: str = ""
    """A plainer choice, where there is one."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one model gains, for the ranking."""

    group: int
    """0 gains, 1 not known or too little, 2 better left alone, 3 nothing was measured."""
    time_saved_pct: float | None
    time_saved: str
    accuracy: str
    headroom: str
    known: str
    """predicted, measured or nothing."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One model."""

    anchor: str
    """Unique on the page."""
    kind: str
    """probe, run, comparison, ablation or validation."""
    title: str
    subtitle: str
    verdict: Verdict
    gain: Gain
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page."""

    title: str
    sections: tuple[Section, ...]
    """The model that gains most first."""
    ranking: Table | None
    """None for a single model."""
    shared: tuple[Part, ...]
    """What holds for all of them."""
    version: str
