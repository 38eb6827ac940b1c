"""The report in a real browser: it is readable at two widths, in the light and in the dark."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from predictor.report import write_report
from tests.chromium import Tab, browsing, find_chromium
from tests.report_factories import STUDIES, keep_probe, keep_run, make_pair, probed

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, such as Debian's chromium"),
]

# The page's background, by its own rules.
LIGHT, DARK = (0xF5, 0xF6, 0xF8), (0x10, 0x13, 0x18)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of every kind, with names that are as long as names get."""
    folder = tmp_path_factory.mktemp("page")
    long = "my_package.somewhere.deep.architectures:make_a_network_with_a_very_long_name_indeed"
    fixed, adaptive = make_pair(model=long)
    names = [keep_run(folder, run) for run in (fixed, adaptive)][1:]
    for run in make_pair():
        keep_run(folder, run)
    names += [str(keep_probe(folder, probed())), str(STUDIES / "compare-test_vit.json")]
    write_report(names, folder / "report.html", folder)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with browsing(CHROMIUM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_shown(tab: Tab, url: str, width: int, dark: bool) -> None:
    tab.open(url, width=width, height=900, dark=dark)
    assert tab.complaints() == []
    assert tab.requests() == [url]
    # Wide tables scroll inside themselves; the page does not.
    assert tab.value("document.documentElement.scrollWidth") == width
    pixels = imread(io.BytesIO(tab.screenshot()))[..., :3] * 255
    assert pixels.shape[1] == width
    assert pixels.shape[0] > 3000
    np.testing.assert_allclose(pixels[2, 2], DARK if dark else LIGHT, atol=1)
    # Every screenful holds words or a drawing: something far from the commonest colours.
    for start in range(0, pixels.shape[0] - 900, 900):
        assert pixels[start : start + 900].std() > 5


def test_figures_are_drawn_and_legible_on_a_telephone(tab: Tab, url: str) -> None:
    tab.open(url, width=390, height=900, dark=True)
    figures = "[...document.querySelectorAll('figure svg')]"
    boxes = (
        f"{figures}.map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height])"
    )
    sizes = tab.value(boxes)
    assert len(sizes) > 8
    assert all(w > 300 and 0.5 < h / w < 1 for w, h in sizes)
    # The height of letters, in pixels of the screen.
    texts = "[...document.querySelectorAll('figure svg text')]"
    heights = tab.value(f"{texts}.map(t => t.getBoundingClientRect().height)")
    assert np.median(heights) > 9
    # Letters of the figures have the colour of the page's, not the black they were drawn in.
    colors = tab.value(f"[...new Set({texts}.map(t => getComputedStyle(t).fill))]")
    assert colors == ["rgb(231, 234, 238)"]


def test_paper_is_white_even_in_the_dark(tab: Tab, url: str) -> None:
    tab.open(url, width=1000, height=900, dark=True, media="print")
    assert tab.complaints() == []
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    ink = tab.value("getComputedStyle(document.querySelector('h1')).color")
    assert ink == "rgb(26, 29, 33)"
    shown = (
        "[...document.querySelectorAll('a.data')].some(a => a.getBoundingClientRect().width > 0)"
    )
    assert tab.value(shown) is False


def test_a_page_that_runs_a_script_would_be_noticed(tab: Tab, url: str, tmp_path: Path) -> None:
    page = Path(url.removeprefix("file://")).read_text()
    bad = page.replace("</main>", "<script>document.title = 'run'</script></main>")
    (tmp_path / "bad.html").write_text(bad)
    tab.open((tmp_path / "bad.html").as_uri(), width=390, height=900, dark=False)
    assert any("Content Security Policy" in text for text in tab.complaints())
    assert tab.value("document.title") != "run"
