"""Put the parts of others that the ops pages load beside them: ``python tools/build_web.py``, after ``npm ci``.

They are copied from ``dashboards/web/node_modules`` into ``dashboards/static/vendor``, each with its licence; the
wheel and the image hold that folder, the repository does not.
"""

import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1] / "dashboards"
PARTS: Final = {
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "htmx.LICENSE": "htmx.org/LICENSE",
    "uplot.min.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.min.css": "uplot/dist/uPlot.min.css",
    "uplot.LICENSE": "uplot/LICENSE",
}


def main() -> int:
    """Copy them all; 1 where one is not installed."""
    target = ROOT / "static" / "vendor"
    target.mkdir(parents=True, exist_ok=True)
    for name, source in PARTS.items():
        path = ROOT / "web" / "node_modules" / source
        if not path.is_file():
            print(f"{path} is not there: run `npm ci --prefix dashboards/web` first", file=sys.stderr)
            return 1
        shutil.copyfile(path, target / name)
    print(f"{len(PARTS)} files in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
