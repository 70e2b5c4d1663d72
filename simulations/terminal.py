"""Text for a terminal, which obeys what it is sent: item texts and data set names come from files that somebody else wrote.

Lives here: what every display writes with. Never here: a table, or a number.
"""

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

ACCENT = "cyan"


def plain(value: object) -> str:
    """Returns text that a terminal cannot obey: one line, without control or formatting characters.

    Args:
        value: Anything; it is written with `str`. (private where it is an item's text)

    Returns:
        The text; each character that is not printable has become a space.
    """
    return "".join(character if character.isprintable() else " " for character in str(value))


def hanging(sign: Text, body: Text) -> Padding:
    """Text that hangs beside a sign, however many lines it takes."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(sign, body)
    return Padding(grid, (0, 0, 0, 0))


def print_text(console: Console, text: str, style: str) -> None:
    """Prints a line as `plain` leaves it."""
    console.print(Text(plain(text), style=style), highlight=False)
