"""How a result shows itself in a notebook or an interactive session."""

from __future__ import annotations

import io
from typing import Any

_HTML = '<pre style="font-family: monospace; line-height: 1.3; overflow-x: auto">{code}</pre>'
_COLUMNS = 100


class Shown:
    """A record that draws itself as the tables of the command line, and as its figures.

    What shows it is imported when it is shown: a record stays numbers only.
    """

    def __rich__(self) -> Any:
        """The table that the command line prints."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `plain.from_plain` is the inverse."""
        from stability_probe.plain import to_plain

        values: dict[str, Any] = to_plain(self)
        return values

    def _repr_html_(self) -> str:
        """What Jupyter shows: the same table, escaped."""
        from rich.console import Console

        # Names are the user's: [brackets] and :colons: in them are no markup.
        console = Console(
            file=io.StringIO(),
            record=True,
            width=_COLUMNS,
            highlight=False,
            markup=False,
            emoji=False,
        )
        console.print(self.__rich__())
        return console.export_html(inline_styles=True, code_format=_HTML)
