"""Where a release comes from: the code that made it, and what its student reads and writes tokens by."""

import hashlib
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from ledger.artifacts import file_hash, folder_hash

__all__ = ("code_version", "student_facts")

TOKENIZER: Final = (
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
ROOT: Final = Path(__file__).parents[1]
GIT_S: Final = 10.0


def code_version() -> dict[str, Any]:
    """The installed version; where the code runs from a checkout, its commit, and whether files differ from that."""
    version = {"version": importlib.metadata.version("stillroom")}
    if not (ROOT / ".git").exists():
        return version
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return version if commit is None else version | {"commit": commit, "changed": bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def student_facts(student: Path) -> dict[str, str]:
    """SHA-256 of a student's tokenizer, chat template and, where it has one, adapter; each in hex."""
    tokenizer = hashlib.sha256()
    for name in TOKENIZER:
        if (student / name).is_file():
            tokenizer.update(f"{name}\0{file_hash(student / name)}\0".encode())
    facts = {"tokenizer": tokenizer.hexdigest()}
    template = _template(student)
    if template is not None:
        facts["chat_template"] = hashlib.sha256(template.encode()).hexdigest()
    adapter = student / "adapter"
    return facts | ({"adapter": folder_hash(adapter)} if adapter.is_dir() else {})


def _template(student: Path) -> str | None:
    """In its own file, as transformers writes it, or inside of the tokenizer's configuration, as it did."""
    if (student / "chat_template.jinja").is_file():
        return (student / "chat_template.jinja").read_text("utf-8")
    config = student / "tokenizer_config.json"
    found: Any = msgspec.json.decode(config.read_bytes()) if config.is_file() else {}
    template: Any = found.get("chat_template")
    return template if isinstance(template, str) else None
