"""The cost-quality curves as a picture; needs matplotlib, so only the command that draws loads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ("draw",)

LOOKS: Final[dict[str, dict[str, Any]]] = {
    "router": {"color": "#0b6e4f", "linewidth": 2.2, "label": "router"},
    "length": {"color": "#8a5a00", "label": "prompt length"},
    "tfidf": {"color": "#3b5b92", "label": "TF-IDF, logistic regression"},
    "group_mean": {"color": "#7a3b69", "label": "group mean"},
    "random": {"color": "#777777", "linestyle": "--", "label": "random"},
    "oracle": {"color": "#aaaaaa", "linestyle": ":", "label": "oracle"},
}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw the headline split of an evaluation: mean score against mean cost, the router with its 95 % band."""
    curves, weak, strong = found["curve"], found["weak"], found["strong"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, look in LOOKS.items():
        axes.plot(curves[name]["cost"], curves[name]["quality"], **look)
    band = curves["router_ci"]
    axes.fill_between(curves["router"]["cost"], band["low"], band["high"], color=LOOKS["router"]["color"], alpha=0.15)
    for name, label, side in (("always_weak", weak, "left"), ("always_strong", strong, "right")):
        point = found["baselines"][name]
        axes.plot(point["cost"], point["quality"], "o", color="#222222", markersize=5)
        place = (point["cost"], point["quality"])
        axes.annotate(_plain(label), place, xytext=(0, -14), textcoords="offset points", horizontalalignment=side)
    axes.set_xlabel("mean cost of a request" if found["priced"] else "share of strong calls")
    axes.set_ylabel("mean score")
    axes.set_title(f"{found['n']} prompts, {found['split'].replace('_', ' ')}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, format="png", dpi=150)


def _plain(label: str) -> str:
    # a dollar sign would begin matplotlib's mathematics
    return label.replace("$", r"\$")
