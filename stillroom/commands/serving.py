"""``serving ray-serve``: a release for other machines' servers."""

import msgspec
import rich_click as click

from ledger import releases
from ledger.artifact_store import local_part
from ledger.artifacts import ArtifactError
from serving.ray_serve import application
from serving.weights import refuse_code
from stillroom.commands.common import CommandFailed, ledger_of, settings_of

__all__ = ("group",)


@click.group("serving")
def group() -> None:
    """Students that something else than `stillroom serve` runs."""


@group.command("ray-serve")
@click.argument("release_id")
@click.option("--min-replicas", type=click.IntRange(0), default=1, show_default=True, help="Replicas at rest.")
@click.option("--max-replicas", type=click.IntRange(1), default=1, show_default=True, help="Replicas under load.")
@click.option("--accelerator", help="Type of GPU, by Ray's name for it (L4, A100).")
@click.pass_context
def ray_serve(
    context: click.Context, release_id: str, min_replicas: int, max_replicas: int, accelerator: str | None
) -> None:
    """Print the configuration with which Ray Serve LLM serves a release: `serve run FILE`."""
    if min_replicas > max_replicas:
        raise click.UsageError(f"--min-replicas {min_replicas} is above --max-replicas {max_replicas}")
    settings = settings_of(context)
    release = releases.get(ledger_of(context), release_id)
    try:
        weights = local_part(release, "student", settings.home_path / "cache" / "releases").resolve()
        refuse_code(weights)
        config = application(settings.student, weights, (min_replicas, max_replicas), accelerator)
    except (ArtifactError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    click.echo(msgspec.json.format(msgspec.json.encode(config)))
