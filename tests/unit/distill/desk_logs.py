"""Logs of the demo's support desk, as a gateway would have exported them."""

import datetime
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stillroom.demo.desk import Request, own_desk
from tests.unit.distill.exports import completion, helicone, litellm

BEGIN = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)
Answer = Callable[[Request, int], str]


def desk(count: int, labels: int = 12) -> list[Request]:
    return own_desk().limited(labels).train[:count]


def label(request: Request, _number: int) -> str:
    return request.label


def at_random(request: Request, number: int) -> str:
    """Nothing that could be learned."""
    return random.Random(number).choice(["yes", "no", "perhaps"])


def prose(request: Request, _number: int) -> str:
    """Free text, no two alike, and no number in it."""
    said = "".join(each for each in request.text if not each.isdigit())
    return f"Dear customer, you wrote to us: {said}. We have looked at it, and will write to you again soon."


def records(
    requests: Sequence[Request], answer: Answer = label, apart_s: int = 1_800, **more: Any
) -> list[dict[str, Any]]:
    """One request each half hour, each of the same price."""
    found: list[dict[str, Any]] = []
    for number, request in enumerate(requests):
        at = (BEGIN + datetime.timedelta(seconds=apart_s * number)).isoformat()
        asked = [{"role": "system", "content": "Sort the request."}, {"role": "user", "content": request.text}]
        body = {"model": "frontier", "messages": asked}
        response = completion(answer(request, number))
        found.append(litellm(number, startTime=at, proxy_server_request=body, response=response, **more))
    return found


def stored(record: dict[str, Any]) -> dict[str, Any]:
    """The same request as a stored completion of OpenAI's, which knows no price."""
    at = datetime.datetime.fromisoformat(record["startTime"])
    return record["response"] | {
        "created": int(at.timestamp()),
        "messages": record["proxy_server_request"]["messages"],
    }


def of_helicone(record: dict[str, Any]) -> dict[str, Any]:
    """The same request as Helicone exports it."""
    told = {"request_created_at": record["startTime"], "request_body": record["proxy_server_request"]}
    return helicone(**told, response_body=record["response"])


def write(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path
