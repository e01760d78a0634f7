"""OpenAI's requests and answers as JSON schemas, as far as the gateway or an upstream reads them: every other field
passes through, so they are open.
"""

from typing import Any, Final, TypeAlias

__all__ = (
    "BOOLEAN", "CHAT", "COMPLETION", "COUNTED_MESSAGE", "EMBEDDING", "INTEGER", "MESSAGE_OF_ANTHROPIC", "NUMBER",
    "OBJECT", "RESPONSE", "SCHEMAS", "STRING", "Schema", "listed", "obj", "or_null", "paged", "ref",
)  # fmt: skip

Schema: TypeAlias = dict[str, Any]


def ref(name: str) -> Schema:
    """A component's schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(of: Schema, **bounds: Any) -> Schema:
    """An array."""
    return {"type": "array", "items": of, **bounds}


def paged(of: str) -> Schema:
    """A page of a list of some component, as `gateway.paging` answers it."""
    return obj(("object", "data", "has_more"), object=STRING, data=listed(ref(of)), has_more=BOOLEAN)


def obj(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An open object."""
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def or_null(schema: Schema) -> Schema:
    """A schema of one type, or null."""
    return schema | {"type": [schema["type"], "null"]}


STRING: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 1}
INTEGER: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
OBJECT: Final[Schema] = {"type": "object"}
MODEL: Final[Schema] = STRING | {"description": "auto, student, teacher or an alias", "examples": ["auto"]}
STOP: Final[Schema] = {"anyOf": [STRING, listed(STRING, maxItems=4), {"type": "null"}]}
TOP_LOGPROBS: Final[Schema] = INTEGER | {"minimum": 0, "maximum": 20}
STREAM_OPTIONS: Final[Schema] = obj(include_usage=BOOLEAN)
TOOL: Final[Schema] = obj(
    ("type",),
    type=STRING,
    function=obj(("name",), name=STRING, description=STRING, parameters=OBJECT, strict=or_null(BOOLEAN)),
)
SAMPLING: Final[dict[str, Schema]] = {
    "temperature": or_null(NUMBER | {"minimum": 0, "maximum": 2}),
    "top_p": or_null(NUMBER | {"minimum": 0, "maximum": 1}),
    "presence_penalty": or_null(NUMBER | {"minimum": -2, "maximum": 2}),
    "frequency_penalty": or_null(NUMBER | {"minimum": -2, "maximum": 2}),
    "n": or_null(COUNT | {"maximum": 128}),
    "seed": or_null(INTEGER),
    "stop": STOP,
    "logit_bias": or_null(OBJECT | {"additionalProperties": NUMBER}),
    "user": STRING,
    "stream": or_null(BOOLEAN),
    "stream_options": or_null(STREAM_OPTIONS),
}
CHAT: Final = obj(
    ("model", "messages"),
    model=MODEL,
    messages=listed(ref("Message"), minItems=1),
    max_tokens=or_null(COUNT),
    max_completion_tokens=or_null(COUNT),
    logprobs=or_null(BOOLEAN),
    top_logprobs=or_null(TOP_LOGPROBS),
    tools=listed(TOOL),
    tool_choice={"anyOf": [STRING, OBJECT]},
    parallel_tool_calls=BOOLEAN,
    response_format=obj(("type",), type=STRING, json_schema=OBJECT),
    reasoning_effort=or_null(STRING),
    metadata=or_null(OBJECT | {"additionalProperties": STRING}),
    store=or_null(BOOLEAN),
    **SAMPLING,
)
MESSAGE: Final = obj(
    ("role",),
    role=STRING | {"enum": ["developer", "system", "user", "assistant", "tool", "function"]},
    content={"anyOf": [STRING, listed(ref("ContentPart")), {"type": "null"}]},
    name=STRING,
    refusal=or_null(STRING),
    tool_call_id=STRING,
    tool_calls=listed(obj(("id", "type"), id=STRING, type=STRING, function=obj(name=STRING, arguments=STRING))),
)
CONTENT_PART: Final = obj(
    ("type",),
    type=STRING | {"enum": ["text", "image_url", "input_audio", "file", "refusal"]},
    text=STRING,
    image_url=obj(("url",), url=STRING, detail=STRING),
)
USAGE: Final = obj(
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    prompt_tokens=INTEGER,
    completion_tokens=INTEGER,
    total_tokens=INTEGER,
)
ANSWER: Final = obj(
    ("id", "object", "created", "model", "choices"),
    id=STRING,
    object=STRING,
    created=INTEGER,
    model=STRING,
    choices=listed(OBJECT),
    usage={"anyOf": [ref("Usage"), {"type": "null"}]},
)
MODEL_CARD: Final = obj(
    ("id", "object", "created", "owned_by"), id=STRING, object=STRING, created=INTEGER, owned_by=STRING
)
ERROR: Final = obj(
    ("error",),
    error=obj(
        ("message", "type", "param", "code"),
        message=STRING,
        type=or_null(STRING),
        param=or_null(STRING),
        code={"type": ["string", "integer", "null"]},
    ),
)
COMPLETION: Final = obj(
    ("model", "prompt"),
    model=MODEL,
    prompt={"anyOf": [STRING, listed(STRING, minItems=1), listed(INTEGER, minItems=1)]},
    max_tokens=or_null(COUNT),
    logprobs=or_null(TOP_LOGPROBS),
    echo=or_null(BOOLEAN),
    best_of=or_null(COUNT | {"maximum": 20}),
    suffix=or_null(STRING),
    **SAMPLING,
)
EMBEDDING: Final = obj(
    ("model", "input"),
    model=STRING,
    input={"anyOf": [STRING, listed(STRING, minItems=1), listed(INTEGER, minItems=1)]},
    encoding_format=STRING | {"enum": ["float", "base64"]},
    dimensions=COUNT,
    user=STRING,
)
INPUT_ITEM: Final = obj(
    (),
    type=STRING | {"enum": ["message", "function_call", "function_call_output", "reasoning"]},
    role=STRING | {"enum": ["developer", "system", "user", "assistant"]},
    content={"anyOf": [STRING, listed(obj(("type",), type=STRING, text=STRING))]},
    call_id=STRING,
    name=STRING,
    arguments=STRING,
    output={"anyOf": [STRING, listed(OBJECT)]},
)
RESPONSE: Final = obj(
    ("model", "input"),
    model=MODEL,
    input={"anyOf": [STRING | {"minLength": 1}, listed(ref("InputItem"), minItems=1)]},
    instructions=or_null(STRING),
    previous_response_id=or_null(STRING),
    max_output_tokens=or_null(COUNT),
    metadata=or_null(OBJECT | {"additionalProperties": STRING}),
    parallel_tool_calls=or_null(BOOLEAN),
    reasoning=or_null(obj((), effort=or_null(STRING), summary=or_null(STRING))),
    store=or_null(BOOLEAN),
    stream=or_null(BOOLEAN),
    temperature=SAMPLING["temperature"],
    top_p=SAMPLING["top_p"],
    top_logprobs=or_null(TOP_LOGPROBS),
    include=or_null(listed(STRING)),
    text=or_null(obj((), format=obj(("type",), type=STRING, name=STRING, schema=OBJECT, strict=or_null(BOOLEAN)))),
    tools=or_null(listed(obj(("type", "name"), type=STRING | {"const": "function"}, name=STRING, parameters=OBJECT))),
    tool_choice={"anyOf": [STRING, OBJECT, {"type": "null"}]},
    truncation=or_null(STRING | {"enum": ["disabled", "auto", None]}),
)
RESPONSE_ANSWER: Final = obj(
    ("id", "object", "created_at", "model", "status", "output"),
    id=STRING,
    object=STRING,
    created_at=INTEGER,
    model=STRING,
    status=STRING,
    output=listed(OBJECT),
    usage=or_null(OBJECT),
)
FILE: Final = obj(
    ("id", "object", "bytes", "created_at", "filename", "purpose"),
    id=STRING,
    object=STRING,
    bytes=INTEGER,
    created_at=INTEGER,
    expires_at=INTEGER,
    filename=STRING,
    purpose=STRING,
    status=STRING,
)
BATCH: Final = obj(
    ("id", "object", "endpoint", "input_file_id", "status", "request_counts"),
    id=STRING,
    object=STRING,
    endpoint=STRING,
    input_file_id=STRING,
    status=STRING,
    output_file_id=or_null(STRING),
    error_file_id=or_null(STRING),
    request_counts=obj(total=INTEGER, completed=INTEGER, failed=INTEGER),
    metadata=or_null(OBJECT),
)
BLOCK: Final = obj(
    ("type",),
    type=STRING | {"enum": ["text", "image", "document", "search_result", "tool_use", "tool_result", "thinking"]},
    text=STRING,
    source=OBJECT,
    id=STRING,
    name=STRING,
    input=OBJECT,
    tool_use_id=STRING,
)
TURN: Final = obj(
    ("role", "content"),
    role=STRING | {"enum": ["user", "assistant", "system"]},
    content={"anyOf": [STRING, listed(ref("Block"))]},
)
COUNTED_MESSAGE: Final = obj(
    ("model", "messages"),
    model=MODEL,
    messages=listed(ref("Turn"), minItems=1),
    system={"anyOf": [STRING, listed(obj(("type", "text"), type=STRING | {"const": "text"}, text=STRING))]},
    tools=listed(obj(("name", "input_schema"), name=STRING, description=STRING, input_schema=OBJECT)),
    tool_choice=obj(("type",), type=STRING | {"enum": ["auto", "any", "tool", "none"]}, name=STRING),
    thinking=obj(("type",), type=STRING | {"enum": ["enabled", "adaptive", "disabled"]}, budget_tokens=COUNT),
)
MESSAGE_OF_ANTHROPIC: Final = COUNTED_MESSAGE | {
    "properties": COUNTED_MESSAGE["properties"]
    | {
        "max_tokens": COUNT,
        "stream": BOOLEAN,
        "stop_sequences": listed(STRING),
        "temperature": NUMBER | {"minimum": 0, "maximum": 1},
        "top_p": NUMBER | {"minimum": 0, "maximum": 1},
        "top_k": COUNT,
        "metadata": obj(user_id=STRING),
        "output_config": obj(effort=or_null(STRING)),
        "service_tier": STRING | {"enum": ["auto", "standard_only"]},
    },
    "required": ["model", "messages", "max_tokens"],
}
ANSWERED_MESSAGE: Final = obj(
    ("id", "type", "role", "model", "content", "stop_reason", "usage"),
    id=STRING,
    type=STRING,
    role=STRING,
    model=STRING,
    content=listed(OBJECT),
    stop_reason=or_null(STRING),
    stop_sequence=or_null(STRING),
    usage=OBJECT,
)
ERROR_OF_ANTHROPIC: Final = obj(
    ("type", "error", "request_id"),
    type=STRING | {"const": "error"},
    error=obj(("type", "message"), type=STRING, message=STRING, details=obj(error_code=STRING)),
    request_id=or_null(STRING),
)
SCHEMAS: Final = {
    "Message": MESSAGE,
    "ContentPart": CONTENT_PART,
    "InputItem": INPUT_ITEM,
    "Answer": ANSWER,
    "Response": RESPONSE_ANSWER,
    "Usage": USAGE,
    "Model": MODEL_CARD,
    "Error": ERROR,
    "File": FILE,
    "Batch": BATCH,
    "Block": BLOCK,
    "Turn": TURN,
    "AnsweredMessage": ANSWERED_MESSAGE,
    "ErrorOfAnthropic": ERROR_OF_ANTHROPIC,
}
"""What is referred to by name."""
