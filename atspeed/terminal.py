"""Tables on the terminal."""

from rich.console import Console, RenderableType


def show(*parts: RenderableType) -> None:
    """Print tables and lines one below the other; 200 characters wide where there is no terminal to fit into."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))  # a path in a line can be copied
