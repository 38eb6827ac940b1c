"""A store with everything that a report shows, and a reader of the page."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from predictor import predict
from predictor.corpus import CORPUS_READING
from stability_probe.config import RunConfig
from stability_probe.plain import to_plain
from stability_probe.records import Characterization, RunResult
from stability_probe.store import RunDirectory, Store
from tests.predictor_factories import make_characterization, make_run

EPOCHS = 6
SETTINGS: dict[str, Any] = {"model": "resnet10t", "epochs": EPOCHS, "window_epochs": 2}
STUDIES = Path(__file__).parents[1] / "data" / "studies"
VOID = {"meta", "link", "br", "img", "hr", "input"}


def make_pair(**config: Any) -> tuple[RunResult, RunResult]:
    """A fixed run and the one that DEBA, as the corpus reads it, makes of it."""
    settings = {**SETTINGS, "channels_last": "off", **config}
    settings.pop("model") if "model" in config else None
    settings["model"] = config.get("model", "resnet10t")
    fixed = make_run(
        batch_sizes=(16,) * EPOCHS,
        accuracies=(0.4, 0.5, 0.6, 0.7, 0.75, 0.8),
        cpu_s=(2.0,) * EPOCHS,
        **settings,
    )
    adaptive = make_run(
        batch_sizes=(16, 16, 24, 24, 36, 36),
        accuracies=(0.4, 0.5, 0.62, 0.72, 0.76, 0.81),
        cpu_s=(2.0, 2.0, 1.5, 1.5, 1.0, 1.0),
        **{"scheduler": "deba", "scheduler_args": dict(CORPUS_READING), **settings},
    )
    return fixed, adaptive


def keep_run(root: Path, run: RunResult, *, done: bool = True) -> str:
    """Store a run, finished or under way; its name."""
    folder = root / run.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_plain(run.config)))
    if done:
        RunDirectory(folder).finish(run)
    else:
        for record in run.epochs:
            RunDirectory(folder).append(record)
    return run.run_id


def probed(**fields: Any) -> Characterization:
    """A characterization that `make_pair` belongs to."""
    settings = {**SETTINGS, "channels_last": "off", **fields.pop("config", {})}
    return make_characterization(**fields, config=settings)


def keep_probe(root: Path, c: Characterization) -> Path:
    return Store(root).save_characterization(c, predict(c))


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page."""

    text: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: str = ""
    style: str = ""
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self, convert_charrefs=True)
        self.feed(self.text)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open_tags:
            self.style += data
        else:
            self.words += data

    def downloads(self) -> dict[str, list[list[str]]]:
        """Rows of every CSV on the page, by its file's name."""
        found = {}
        for tag, attributes in self.tags:
            if tag == "a" and attributes.get("download"):
                content = str(attributes["href"]).split(",", 1)[1]
                text = base64.b64decode(content).decode()
                name = str(attributes["download"])
                assert name not in found
                found[name] = list(csv.reader(io.StringIO(text, newline="")))
        return found


def printed_validation(v: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(v))
    return path


def config_of(run: RunResult) -> RunConfig:
    return RunConfig.from_dict(run.config)
