"""Serving in words: what a server does, how far a swap is, and what a breaker means for who asks."""

from collections.abc import Sequence
from typing import Any, Final

from dashboards import words

__all__ = ("is_away", "read_once", "student", "swap", "upstream", "warnings")

STATES: Final = {
    "starting": "starting",
    "ready": "ready",
    "down": "down",
    "draining": "draining",
    "swappable": "takes the live weights",
    "configured": "not ours: student.base_url",
}
BREAKERS: Final = {
    "closed": "asked",
    "open": "left alone",
    "half_open": "tried with one request",
}
SWAPPABLE: Final = "swappable"


def warnings(found: Any) -> list[str]:
    """What asks for a look."""
    said: list[str] = []
    own = any(each.state != "configured" for each in found.students)
    if found.students and own and not found.kept:
        said.append("No process keeps the fleet: what is down stays down.")
    if found.live is not None and found.routed != found.live and _is_ready(found):
        said.append(f"This gateway process does not route by {found.live} (yet): see its log for router_unreadable.")
    names: list[str] = list(dict.fromkeys(each.name for each in found.upstreams))
    for name in names:
        of_side = [each for each in found.upstreams if each.name == name]
        if all(each.state != "closed" for each in of_side):
            said.append(f"Every {name} is left alone by this gateway process, having failed too often.")
    if any(each.state == "down" for each in found.students):
        said.append("A student server is down. Its log is in the home's folder logs.")
    return said


def swap(found: Any) -> str:
    """How far the live release is on its way; empty where nothing is under way."""
    rows = [each for each in found.students if each.state != SWAPPABLE]
    if found.live is None:
        return ""
    if is_away(found):
        if not rows:
            return f"{found.live} is live and no student server runs: {_meanwhile(found)}."
        return f"A swap is under way: {found.live} is live and no server has it yet. Meanwhile {_meanwhile(found)}."
    draining = [each for each in rows if each.state == "draining"]
    if draining:
        of = ", ".join(sorted({each.release_id for each in draining}))
        return f"{found.live} is served; {len(draining)} server of {of} ends its requests and then itself."
    starting = [each for each in rows if each.state == "starting"]
    if starting:
        return (
            f"{found.live} is served; a server of {', '.join(sorted({each.release_id for each in starting}))} starts."
        )
    beside = {each.release_id for each in rows if each.state == "ready"} - {found.live, found.trial or ""}
    return f"{found.live} is served; kept beside it, for a rollback: {', '.join(sorted(beside))}." if beside else ""


def is_away(found: Any) -> bool:
    """Whether a release is live that no student answers for."""
    return found.live is not None and not _is_ready(found)


def _is_ready(found: Any) -> bool:
    return any(each.release_id == found.live and each.state in ("ready", "configured") for each in found.students)


def _meanwhile(found: Any) -> str:
    if any(each.state == SWAPPABLE for each in found.students):
        return "requests for the student wait for it"
    if found.routed not in (None, found.live):
        return f"{found.routed} goes on answering"
    return "the teacher answers"


def read_once(students: Sequence[Any]) -> list[Any]:
    """The servers whose figures were read, each address once: a row of its own may say that one takes weights."""
    return list({each.at: each for each in students if each.figures is not None}.values())


def student(each: Any, found: Any, now: int) -> list[str]:
    """A row of the table."""
    of, rate = each.figures, each.rate
    role = "live" if each.release_id == found.live else "on trial" if each.release_id == found.trial else ""
    release = each.release_id or words.NOTHING
    said = None if each.heartbeat_at is None else max(0, now - each.heartbeat_at) / 1000
    return [
        each.id,
        f"{release} ({role})" if role else release,
        STATES.get(str(each.state), str(each.state)),
        words.NOTHING if of is None else _whole(of.running),
        words.NOTHING if of is None else _whole(of.waiting),
        words.NOTHING if of is None else words.percent(of.kv_cache, 0),
        words.NOTHING if rate is None else f"{rate.generation:,.1f}",
        words.NOTHING if rate is None else f"{rate.prompt:,.1f}",
        words.NOTHING if of is None else _whole(of.preemptions),
        words.NOTHING if said is None else words.duration(said),
        each.at or words.NOTHING,
    ]


def upstream(each: Any) -> list[str]:
    """A row of the table."""
    wait = f"{each.opens_in_seconds:.0f} s" if each.opens_in_seconds else words.NOTHING
    place = "first" if each.index == 0 else f"{each.index + 1}."
    return [f"{each.name}, {place}", each.at, each.model, BREAKERS.get(str(each.state), str(each.state)), wait]


def _whole(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:,.0f}"
