"""The command line. Exit status 2 for a usage or settings error, 1 for a failure; no traceback reaches a user."""

import logging
import sys
from pathlib import Path
from typing import Final

import rich_click as click
from click.exceptions import Exit, NoArgsIsHelpError
from sqlalchemy.exc import SQLAlchemyError

from ledger.jobs import JobError
from ledger.keys import KeyNameError, PolicyError, ScopeError
from ledger.releases import ReleaseError
from serving.weights import WeightsError
from stillroom.commands import cost, demo, distill, estimate, keys, ledger, router, run, serving, webhooks
from stillroom.commands.common import CommandFailed
from stillroom.settings import SettingsError

__all__ = ("cli", "main")

EXTRAS: Final = dict.fromkeys(
    ("accelerate", "peft", "phonenumbers", "py3langid", "pyarrow", "scipy", "sklearn", "torch", "transformers"),
    "train",
) | {"matplotlib": "plots", "openai": "demo"}
"""What a command may miss where only the core is installed, and the extra that brings it."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Settings file (default: stillroom.toml here).")
@click.version_option(package_name="stillroom")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Stillroom: an OpenAI-compatible gateway that moves traffic from a frontier model to a distilled student."""
    context.obj = config


for command in (
    *run.commands, keys.group, distill.group, ledger.group, router.group, cost.group, webhooks.group, demo.command,
    estimate.command, serving.group,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The entry point: every foreseeable failure is one line that says what and how to mend it."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        cli.main(prog_name="stillroom", standalone_mode=False)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(_usage(error), 2)
    except click.Abort:
        sys.exit(130)
    except Exit as error:
        sys.exit(error.exit_code)
    except (SettingsError, PolicyError, ScopeError) as error:
        _fail(str(error), 2)
    except (CommandFailed, JobError, KeyNameError, OSError, ReleaseError, WeightsError) as error:
        _fail(str(error), 1)
    except SQLAlchemyError as error:
        _fail(f"the ledger cannot be reached: {str(error).splitlines()[0]}", 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(f"this needs {package}: run pip install 'stillroom[{EXTRAS[package]}]'", 1)


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" See `{context.command_path} --help`." if context else ""
    return f"{' '.join(error.format_message().split())}{hint}"


def _fail(message: str, status: int) -> None:
    click.echo(f"stillroom: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
