"""Tables for a terminal in which names stay whole, so that they can be copied."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from zoo.metrics.text import in_cell

# More columns than any table has.
UNLIMITED = 10_000


@dataclass
class Grid:
    """Names with their numbers, made narrower as far as the terminal needs it.

    First numbers and headings take several lines, unless each row is to be one, then the last
    columns go that may be left out. Only where that is not enough are names folded.

    Attributes:
        headings: Of the columns.
        rows: Their cells, which may have several lines.
        num_names: Columns that hold names, from the left; the others hold numbers.
        least: Columns that are always there; None for all.
        one_line: Whether a number has one line, however narrow the terminal is.
        title: Above it.
        caption: Below it.
        sections: Numbers of the rows that have a line above them.
        framed: Whether there are lines between the columns.
    """

    headings: list[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    num_names: int = 1
    least: int | None = None
    one_line: bool = False
    title: str | None = None
    caption: str | None = None
    sections: set[int] = field(default_factory=set)
    framed: bool = True

    def add(self, *cells: str) -> None:
        """Adds a row; cells that are left out are empty."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        most = len(self.headings)
        counts = range(most, (most if self.least is None else self.least) - 1, -1)
        attempts = [(most, False), *((num, not self.one_line) for num in counts)]
        for num, several_lines in attempts:
            table = self._table(num, several_lines)
            if self._width(console, options, table) <= options.max_width:
                break
        else:
            for column in table.columns[: self.num_names]:
                column.no_wrap = False
        yield table

    def _width(self, console: Console, options: ConsoleOptions, table: Table) -> int:
        unlimited = options.update(width=UNLIMITED)
        return Measurement.get(console, unlimited, table).maximum

    def _table(self, num_columns: int, several_lines: bool) -> Table:
        table = Table(
            title=None if self.title is None else Text(self.title),
            caption=None if self.caption is None else Text(self.caption),
        )
        if not self.framed:
            table.box, table.show_edge, table.pad_edge = box.SIMPLE_HEAD, False, False
            table.padding = (0, 1 if several_lines or self.one_line else 2, 0, 0)
            table.title_justify = table.caption_justify = "left"
        for i, heading in enumerate(self.headings[:num_columns]):
            is_name = i < self.num_names
            several = several_lines and not is_name
            shown = re.sub(r"(?<=\w) ", "\n", heading) if several else heading
            justify = "left" if is_name else "right"
            table.add_column(Text(shown), justify=justify, no_wrap=True, overflow="fold")  # type: ignore[arg-type]
        for number, row in enumerate(self.rows):
            if number in self.sections:
                table.add_section()
            names, numbers = row[: self.num_names], row[self.num_names : num_columns]
            if several_lines:
                numbers = [
                    in_cell(n)
                    .replace(" ±", "\n±")
                    .replace(" of ", "\nof ")
                    .replace(" to ", "\nto ")
                    .replace("seeds ", "seeds\n")
                    for n in numbers
                ]
            table.add_row(*map(Text, [*names, *numbers]))
        return table
