"""``distill targets``: how much of what the teacher logged becomes soft targets, and why the rest does not."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import rich_click as click

from ledger.trainable import fetch_trainable, newest_trainable
from stillroom.commands.common import CommandFailed, as_json, ledger_of, settings_of, show_rows
from stillroom.commands.data import student_tokenizer

if TYPE_CHECKING:
    from distill.capabilities import TeacherCapabilities
    from distill.target_report import TargetReport

__all__ = ("targets",)


@click.command()
@click.argument("dataset", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--from-ledger", type=click.IntRange(1, 1_000_000), help="Look at so many of the newest answers.")
@as_json
@click.pass_context
def targets(context: click.Context, dataset: Path | None, from_ledger: int | None, as_json: bool) -> None:
    """What becomes of the teacher's log-probabilities: of a dataset's folder, or of the ledger's newest answers."""
    if (dataset is None) == (from_ledger is None):
        raise click.UsageError("give a dataset's folder, or --from-ledger", context)
    teacher, report = _of_dataset(dataset) if dataset else _of_ledger(context, from_ledger or 1)
    if as_json:
        shares = {"aligned_share": report.aligned_share, "mass_kept": report.mass_kept}
        found = {"targets": msgspec.to_builtins(report) | shares, "teacher": msgspec.to_builtins(teacher)}
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    show_rows(report.table(), False, "no answers to look at")
    kinds = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in sorted(report.rows.items()))
    click.echo(f"rows by loss: {kinds or 'none'}; {report.mass_kept:.1%} of the logged probability is kept")
    click.echo(_words(teacher))


def _of_dataset(folder: Path) -> "tuple[TeacherCapabilities, TargetReport]":
    from distill.data.rows import Manifest

    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise CommandFailed(f"{folder} is no dataset: {error}") from error
    return manifest.teacher, manifest.targets


def _of_ledger(context: click.Context, limit: int) -> "tuple[TeacherCapabilities, TargetReport]":
    from distill.local_teacher import local_tokens
    from distill.target_scan import scan

    settings, store = settings_of(context), ledger_of(context)
    tokenizer: Any = student_tokenizer(settings, store)
    found = fetch_trainable(store, newest_trainable(store, limit)).values()
    local = local_tokens(settings.distill.training.teacher_weights, tokenizer)
    return scan(((content.answer, content.teacher_logprobs) for _, content in found), tokenizer, local)


def _words(teacher: "TeacherCapabilities") -> str:
    local = "; a local teacher with the student's tokenizer gives its whole distributions" if teacher.dense else ""
    local = "; a local teacher with another tokenizer gives its own" if teacher.foreign else local
    if not teacher.gives_logprobs:
        return f"the teacher gave no log-probabilities with {teacher.answers} answers{local}"
    same = {
        None: "too few tokens to tell whether its vocabulary is the student's",
        True: "the student's own vocabulary",
    }
    vocabulary = same.get(teacher.same_vocabulary, "another vocabulary than the student's")
    return (
        f"the teacher gave up to {teacher.top_logprobs} log-probabilities a token with {teacher.with_logprobs} of "
        f"{teacher.answers} answers; {vocabulary}{local}"
    )
