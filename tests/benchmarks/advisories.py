"""Known vulnerabilities of what is installed, as the package index tells them.

    python -m tests.benchmarks.advisories [--json]

`pip-audit` asks for the very version and is to be preferred where it can. This asks only for each
project's page, which tells the advisories of the newest version: for a package that is installed
in an older one the answer is about the update, and it is counted apart. Exits 1 where one is known.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

PAGE = "https://pypi.org/pypi/{}/json"
CONTROL = "pycrypto"
"""Abandoned, with advisories: a page without any for it would be no answer for the others."""


def page(name: str) -> dict[str, Any] | None:
    """What the index says of a project, None where it does not know it."""
    try:
        with urllib.request.urlopen(PAGE.format(name), timeout=30) as answer:
            return dict(json.load(answer))
    except OSError:
        return None


def audit(installed: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Packages (name, version) by what is known of them; raises `OSError` without an index."""
    control = page(CONTROL)
    if control is None or not control["vulnerabilities"]:
        raise OSError("the package index tells no advisories here")
    ordered = sorted(installed)
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(page, (name for name, _ in ordered)))
    found: dict[str, Any] = {"newest": [], "older": [], "unknown": [], "vulnerable": {}}
    for (name, version), told in zip(ordered, pages, strict=True):
        if told is None:
            found["unknown"].append(name)
            continue
        same = told["info"]["version"] == version.partition("+")[0]
        found["newest" if same else "older"].append(f"{name} {version}")
        advisories = [v["id"] for v in told["vulnerabilities"] if not v.get("withdrawn")]
        if advisories:
            found["vulnerable"][f"{name} {told['info']['version']}"] = advisories
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = audit({(d.name, d.version) for d in metadata.distributions()})
    if args.json:
        print(json.dumps(found))
    else:
        print(f"{len(found['newest'])} packages in their newest version")
        for what in ("older", "unknown"):
            print(f"{len(found[what])} {what}: {', '.join(found[what]) or 'none'}")
        print(f"vulnerable: {found['vulnerable'] or 'none'}")
    raise SystemExit(1 if found["vulnerable"] else 0)


if __name__ == "__main__":
    main()
