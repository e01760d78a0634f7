"""What the handlers read and answer, as JSON schemas, by the name of the handler's function.

Shapes of ours come from their structs, those of OpenAI from `gateway.openapi_models`.
"""

from typing import Final

from gateway import (
    canary_api,
    erasures_api,
    jobs_api,
    keys_api,
    paging,
    replay_api,
    router_api,
    serving_api,
    webhooks_api,
)
from gateway.batches.line import ENDPOINTS
from gateway.feedback_api import NewFeedback, Remark
from gateway.header_list import ANSWERED, SENT
from gateway.openapi_models import (
    BOOLEAN,
    CHAT,
    COMPLETION,
    COUNTED_MESSAGE,
    EMBEDDING,
    INTEGER,
    MESSAGE_OF_ANTHROPIC,
    NUMBER,
    OBJECT,
    RESPONSE,
    STRING,
    Schema,
    listed,
    obj,
    or_null,
    paged,
    ref,
)
from ledger import explorer_query
from ledger.audit import Entry
from ledger.canaries import Canary
from ledger.dataset_preview import Preview
from ledger.datasets import Dataset
from ledger.distilling import Payback, Schedule
from ledger.erasure import Erasure
from ledger.events import Event
from ledger.explorer import MAX_LIMIT
from ledger.feedback import Feedback
from ledger.job_settings import JobSettings
from ledger.jobs import Job
from ledger.key_list import STATES as KEY_STATES
from ledger.keys import MAX_OVERLAP_S, SCOPES, Key
from ledger.labels import Label
from ledger.outbox import STATES, Delivery
from ledger.policies import KeyPolicy
from ledger.release_history import Saved
from ledger.releases import Release
from router.estimators import ESTIMATORS
from router.explain import Word
from router.log_report import LogReport

__all__ = (
    "BODIES",
    "FORMS",
    "HEADERS",
    "MODEL_ANSWERED",
    "PARAMETERS",
    "QUERIES",
    "RESULTS",
    "STATUS",
    "STREAMED",
    "TEXTS",
    "TYPES",
)

TYPES: Final = (
    keys_api.NewKey,
    erasures_api.NewErasure,
    Erasure,
    KeyPolicy,
    Canary,
    canary_api.NewCanary,
    JobSettings,
    jobs_api.NewReason,
    NewFeedback,
    Remark,
    replay_api.NewReplay,
    Entry,
    Event,
    Dataset,
    serving_api.Serving,
    Feedback,
    Delivery,
    Label,
    LogReport,
    router_api.NewThresholds,
    router_api.ThresholdsState,
    Word,
    Key,
    Job,
    Payback,
    Preview,
    Release,
    Saved,
    Schedule,
)
PAGE: Final[dict[str, Schema]] = {
    "limit": INTEGER | {"minimum": 1, "maximum": paging.MAX_LIMIT, "default": paging.DEFAULT_LIMIT},
    "after": STRING | {"description": "The id of the last one on the page before."},
}
CANARY: Final = obj(("canary",), canary={"anyOf": [ref("Canary"), {"type": "null"}]})
ROTATION: Final = obj(overlap_seconds=NUMBER | {"minimum": 0, "maximum": MAX_OVERLAP_S}) | {
    "additionalProperties": False
}

MODEL_ANSWERED: Final = {
    "chat_completions": CHAT,
    "completions": COMPLETION,
    "create_response": RESPONSE,
    "embeddings": EMBEDDING,
    "create_message": MESSAGE_OF_ANTHROPIC,
}
"""Bodies of the handlers that a model answers."""
STREAMED: Final = ("chat_completions", "completions", "create_message", "create_response")
"""Handlers that stream where they are asked to."""
BODIES: Final[dict[str, Schema]] = MODEL_ANSWERED | {
    "count_message_tokens": COUNTED_MESSAGE,
    "create_batch": obj(
        ("input_file_id", "endpoint", "completion_window"),
        input_file_id=STRING,
        endpoint=STRING | {"enum": [*ENDPOINTS]},
        completion_window=STRING | {"const": "24h"},
        metadata=or_null(OBJECT | {"additionalProperties": STRING | {"maxLength": 512}, "maxProperties": 16}),
    ),
    "create_feedback": ref("NewFeedback"),
    "give_feedback": ref("Remark"),
    "replay_request": ref("NewReplay"),
    "create_key": ref("NewKey"),
    "update_key": ref("KeyPolicy"),
    "rotate_key": ROTATION,
    "create_erasure": ref("NewErasure"),
    "create_job": ref("JobSettings"),
    "reject_job": ref("NewReason"),
    "start_canary": ref("NewCanary"),
    "set_router_thresholds": ref("NewThresholds"),
}
FORMS: Final[dict[str, Schema]] = {
    "create_file": obj(("file", "purpose"), file=STRING | {"format": "binary"}, purpose=STRING | {"const": "batch"})
}
"""Bodies of ``multipart/form-data``."""
RESULTS: Final[dict[str, Schema]] = {
    "healthz": obj(("status",), status=STRING),
    "readyz": obj(("status",), status=STRING),
    "openapi_document": OBJECT,
    "chat_completions": ref("Answer"),
    "completions": ref("Answer"),
    "create_response": ref("Response"),
    "response": ref("Response"),
    "delete_response": obj(("id", "object", "deleted"), id=STRING, object=STRING, deleted=BOOLEAN),
    "response_input_items": obj(("object", "data", "has_more"), object=STRING, data=listed(OBJECT), has_more=BOOLEAN),
    "embeddings": obj(("object", "data"), object=STRING, data=listed(OBJECT), model=STRING, usage=OBJECT),
    **dict.fromkeys(("create_file", "show_file"), ref("File")),
    "list_files": obj(("object", "data", "has_more"), object=STRING, data=listed(ref("File")), has_more=BOOLEAN),
    "delete_file": obj(("id", "object", "deleted"), id=STRING, object=STRING, deleted=BOOLEAN),
    **dict.fromkeys(("create_batch", "show_batch", "cancel_batch"), ref("Batch")),
    "list_batches": obj(("object", "data", "has_more"), object=STRING, data=listed(ref("Batch")), has_more=BOOLEAN),
    "create_message": ref("AnsweredMessage"),
    "count_message_tokens": obj(("input_tokens",), input_tokens=INTEGER),
    "models": obj(("object", "data"), object=STRING, data=listed(ref("Model"))),
    "model": ref("Model"),
    "create_feedback": {"allOf": [ref("Feedback"), obj(("object", "kept"), object=STRING, kept=listed(STRING))]},
    "list_audit": paged("Entry"),
    "list_datasets": paged("Dataset"),
    "list_keys": paged("Key"),
    "create_key": obj(("key", "secret"), key=ref("Key"), secret=STRING),
    "show_key": obj(("key", "spend"), key=ref("Key"), spend=OBJECT),
    "update_key": ref("Key"),
    "rotate_key": obj(("key", "secret"), key=ref("Key"), secret=STRING),
    "revoke_key": ref("Key"),
    "create_erasure": ref("Erasure"),
    "list_events": paged("Event"),
    "list_jobs": paged("Job"),
    "preview_job": ref("Preview"),
    "job_triggers": ref("Schedule"),
    "create_job": ref("Job"),
    "show_job": obj(("job", "events"), job=ref("Job"), events=listed(OBJECT)),
    "cancel_job": ref("Job"),
    "approve_job": ref("Job"),
    "reject_job": ref("Job"),
    **dict.fromkeys(("show_canary", "start_canary", "stop_canary", "promote_canary"), CANARY),
    "list_releases": paged("Release"),
    "show_release": obj(
        ("release", "saved", "canaries", "payback"),
        release=ref("Release"),
        saved={"anyOf": [ref("Saved"), {"type": "null"}]},
        canaries=listed(ref("Canary")),
        payback={"anyOf": [ref("Payback"), {"type": "null"}]},
    ),
    "show_serving": ref("Serving"),
    "pin_release": ref("Release"),
    "unpin_release": ref("Release"),
    "promote_release": ref("Release"),
    "rollback_release": obj(("rolled_back", "live"), rolled_back=STRING, live=ref("Release")),
    "list_requests": obj(
        ("data", "next", "looked"), data=listed(OBJECT), next=or_null(STRING), looked=or_null(INTEGER)
    ),
    "give_feedback": ref("Feedback"),
    "delete_content": ref("Erasure"),
    "replay_request": obj(("id", "of", "route", "answer"), id=STRING, of=STRING, route=STRING, answer=OBJECT),
    "show_request": obj(
        ("request", "content", "why", "words", "labels", "feedback", "beside", "replays"),
        beside=listed(OBJECT),
        replays=listed(OBJECT),
        request=OBJECT,
        content=or_null(OBJECT),
        why=listed(STRING),
        words=listed(ref("Word")),
        labels=listed(ref("Label")),
        feedback=listed(ref("Feedback")),
    ),
    "list_deliveries": obj(("data", "next"), data=listed(ref("Delivery")), next=or_null(STRING)),
    "retry_delivery": obj(("id", "state"), id=INTEGER, state=STRING),
    "curve": ref("LogReport"),
    **dict.fromkeys(("show_thresholds", "set_router_thresholds", "undo_router_thresholds"), ref("ThresholdsState")),
}
STATUS: Final = {
    "create_feedback": 201,
    "give_feedback": 201,
    "create_key": 201,
    "create_job": 202,
    "start_canary": 201,
}
"""Of success, where it is not 200."""
QUERIES: Final[dict[str, dict[str, Schema]]] = {
    "curve": {
        "since": INTEGER | {"minimum": 0},
        "release": STRING,
        "estimator": STRING | {"enum": [*ESTIMATORS]},
        "points": INTEGER | {"minimum": 2, "maximum": 1_001},
    },
    "list_files": {"limit": INTEGER | {"minimum": 1, "maximum": 10_000}, "after": STRING, "purpose": STRING},
    "list_batches": {"limit": INTEGER | {"minimum": 1, "maximum": 10_000}, "after": STRING},
    "response_input_items": {
        "limit": INTEGER | {"minimum": 1, "maximum": 100},
        "order": STRING | {"enum": ["asc", "desc"]},
        "after": STRING,
    },
    "list_requests": {
        **dict.fromkeys(explorer_query.NAMES, STRING),
        **dict.fromkeys(explorer_query.TIMES, INTEGER | {"minimum": 0}),
        **dict.fromkeys(explorer_query.SCORES, NUMBER | {"minimum": 0, "maximum": 1}),
        "route": STRING | {"enum": [*explorer_query.ROUTES]},
        "before": STRING,
        "limit": INTEGER | {"minimum": 1, "maximum": MAX_LIMIT},
    },
    "list_audit": PAGE
    | {
        **dict.fromkeys(("actor", "action", "subject"), STRING),
        **dict.fromkeys(("after", "since", "until"), INTEGER | {"minimum": 0}),
    },
    "list_datasets": PAGE | {"job": STRING, "flagged": STRING | {"enum": ["true", "false"]}},
    "list_events": PAGE | {"after": INTEGER | {"minimum": 0}, "kind": STRING, "subject": STRING},
    "list_keys": PAGE
    | {
        **dict.fromkeys(("name", "owner", "tag"), STRING),
        "scope": STRING | {"enum": [*SCOPES]},
        "state": STRING | {"enum": [*KEY_STATES]},
    },
    "list_releases": PAGE | {"state": STRING},
    "list_deliveries": {
        "limit": INTEGER | {"minimum": 1, "maximum": webhooks_api.MAX_LIMIT},
        "before": INTEGER | {"minimum": 0},
        "endpoint": STRING,
        "state": STRING | {"enum": [*STATES]},
    },
    "follow_job": {"after": INTEGER | {"minimum": 0}},
    "list_jobs": PAGE | {"state": STRING},
    "preview_job": {
        **dict.fromkeys(
            ("since", "until", "tags", "keys", "routes", "reasons", "finish_reasons", "start_from"), STRING
        ),
        "min_feedback": NUMBER | {"minimum": 0, "maximum": 1},
        "max_examples": INTEGER | {"minimum": 1},
    },
    "show_release": {"training_cost": NUMBER | {"minimum": 0}},
}
"""Query parameters."""
TEXTS: Final = {
    "metrics": "text/plain",
    "follow_job": "text/event-stream",
    "file_content": "application/octet-stream",
}
"""Handlers that do not answer in JSON, and in what."""


def _header(name: str, schema: Schema = STRING) -> Schema:
    return {"name": name, "in": "header", "description": SENT[name], "schema": schema}


SWITCH: Final[Schema] = STRING | {"enum": ["on", "off"]}
PARAMETERS: Final = {
    "route": _header("x-stillroom-route", STRING | {"enum": ["auto", "student", "teacher"]}),
    "log": _header("x-stillroom-log", SWITCH),
    "fallback": _header("x-stillroom-fallback", SWITCH),
    "tags": _header("x-stillroom-tags"),
    "once": _header("idempotency-key", STRING | {"minLength": 1, "maxLength": 255}),
}
"""Headers that a caller of a model may send."""
HEADERS: Final = {
    name: {"description": ANSWERED[name], "schema": STRING}
    for name in ("x-request-id", "x-stillroom-route", "x-stillroom-reason", "x-stillroom-release")
}
"""What every answer of a model carries."""
