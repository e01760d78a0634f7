"""A report as a page."""

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from distill.dataset import Manifest
from distill.gate import judge
from distill.gate_settings import GateSettings
from distill.measures import Outcome
from distill.pictures import Interval, curves, histogram, intervals
from distill.report import Evaluation, report_of, summary
from distill.report_page import page
from distill.settings import DistillSettings
from router.calibration import Prices
from router.features import RequestView
from router.train import LabelledRequest, train_router
from tests.unit.distill.measured import PARITY, PROBES, TOKEN, measured, row

MANIFEST = Manifest(1, 30, 10, {"refusal": 2}, 0.9, {"key_1": 30}, "hash")
CURVE = [(0.0, 1.0), (0.5, 0.98), (1.0, 0.8)]
VOID = {"meta", "br"}


class Tags(HTMLParser):
    """Opens and closes in order, or fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)


@pytest.fixture(scope="module")
def router():
    rows = [LabelledRequest(RequestView((("user", f"parcel {n}"),)), (TOKEN,), n % 3 > 0) for n in range(60)]
    return train_router(rows, 0.5, 0.05, Prices(1, 10))


def report(router: Any, champion: bool = True, **changes: Any) -> dict[str, Any]:
    answers = [row(n, n > 60, ["<b>billing</b>"] if n < 90 else []) for n in range(200)]
    candidate = measured(answers, **({"curve": CURVE} | changes))
    before = measured(list(reversed(answers)), curve=CURVE) if champion else None
    verdict = judge(DistillSettings(gate=GateSettings(max_kl=9.0)), candidate, before, PARITY)
    evaluation = Evaluation(verdict, candidate, before, {"seconds": 3.0, "losses": [1.0]}, MANIFEST)
    made = report_of(evaluation, summary(evaluation, router), {"id": "r1", "parent": None, "job": "job_1"})
    return msgspec.json.decode(msgspec.json.encode(made))


def test_the_page_is_whole_and_asks_nobody_for_anything(router):
    shown = page(report(router))
    seen = Tags(shown).seen
    assert seen.count("svg") == 3
    assert not {"script", "link", "img", "iframe"} & set(seen)
    assert set(re.findall(r"https?://[^\"' )]+", shown)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in shown and "@import" not in shown
    assert "prefers-color-scheme:dark" in shown and "@media print" in shown


def test_the_page_says_the_verdict_every_check_and_why_it_was_rejected(router):
    found = report(router)
    shown = page(found)
    assert found["verdict"] == "rejected"
    assert "rejected</strong>" in shown
    for check in found["checks"]:
        assert check["name"] in shown
    failed = [check["text"] for check in found["checks"] if not check["passed"]]
    assert failed
    assert all(
        shown.count(text.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;")) == 2 for text in failed
    )


def test_text_of_clients_is_shown_as_text_and_what_was_said_not_at_all(router):
    shown = page(report(router, probes=[*PROBES, Outcome("<i>x</i>", "canary", False, why="says <u>")]))
    assert "<b>" not in shown and "&lt;b&gt;billing" in shown
    assert "<i>" not in shown and "<u>" not in shown
    assert "late" not in re.sub(r"<[^>]*>", " ", shown).split()


def test_what_was_not_measured_is_a_dash_and_no_number(router):
    shown = page(report(router, champion=False, fit=None, cost=None, curve=()))
    assert "&mdash;" in shown and ">None<" not in shown and ">nan<" not in shown
    assert "champion</th>" not in shown
    assert Tags(shown).seen.count("svg") == 2


def test_a_report_without_a_single_held_out_answer_has_a_page(router):
    candidate = measured([], probes=None, cost=None, fit=None)
    verdict = judge(DistillSettings(), candidate, None, PARITY)
    evaluation = Evaluation(verdict, candidate, None, {}, MANIFEST)
    made = report_of(evaluation, summary(evaluation, router), {})
    assert "rejected" in page(msgspec.json.decode(msgspec.json.encode(made)))


def test_pictures_stay_inside_their_frame():
    for picture in (
        intervals([Interval("a" * 90, 0.0, 0.5, 1.0)], 0.5),
        curves([("candidate", [(0.0, 1.0), (1.0, 0.2)])], 0.95, (0.5, 0.9)),
        histogram([("candidate", [1.0, 5.0, 900.0] * 9), ("champion", [3.0])]),
        histogram([("candidate", [0.0])]),
    ):
        width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', picture)[0])
        for name, limit in (
            ("x", width),
            ("y", height),
            ("cx", width),
            ("cy", height),
            ("x1", width),
            ("y2", height),
        ):
            assert all(0 <= float(value) <= limit for value in re.findall(rf' {name}="([^"]+)"', picture))
        Tags(picture)


def test_bars_add_up_to_all_answers():
    picture = histogram([("candidate", [10.0] * 30 + [20.0] * 10)])
    heights = [float(value) for value in re.findall(r'<rect[^>]* height="([\d.]+)"', picture)]
    tall = sorted(height for height in heights if height)
    assert len(tall) == 2
    assert tall[1] / tall[0] == pytest.approx(3.0, abs=0.05)
