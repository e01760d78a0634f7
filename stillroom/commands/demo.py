"""``demo``: the business case on this machine."""

from pathlib import Path

import rich_click as click
from rich.console import Console

__all__ = ("command",)


@click.command("demo")
@click.option("--fast", is_flag=True, help="Fewer requests, same real parts.")
@click.option("--shift", is_flag=True, help="Half of the intents come up only after the first round.")
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A labelled set of yours: CSV or JSON lines (text, label), or CLINC150's JSON.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("var/demo"), show_default=True,
              help="Folder of the report; it is emptied first.")  # fmt: skip
@click.option("--labels", type=click.IntRange(min=2), help="Keep only so many of the set's intents.")
def command(fast: bool, shift: bool, data: Path | None, out: Path, labels: int | None) -> None:
    """Play the loop: traffic to an expensive teacher, distil, cheaper traffic, distil again."""
    from stillroom.demo.desk import DeskError
    from stillroom.demo.play import FAST, FULL, SHIFT, Script, play

    if fast and shift:
        raise click.UsageError("--fast plays one round and --shift takes two: give one of them")
    size = FAST if fast else SHIFT if shift else FULL
    try:
        play(Script.of(out, size, data, labels or 0), Console())
    except DeskError as error:
        raise click.UsageError(str(error)) from error
