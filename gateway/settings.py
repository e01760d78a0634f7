"""The tables that the gateway reads: `[gateway]`, `[teacher]`, `[embeddings]`, `[auth]` and `[[webhooks]]`."""

import msgspec

from ledger.prices import Price

__all__ = (
    "AuthSettings", "BatchSettings", "EmbeddingsSettings", "FallbackTeacher", "GatewaySettings", "TeacherSettings",
    "TracingSettings", "WebhookSettings",
)  # fmt: skip


class TracingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where OpenTelemetry spans of requests are sent, by OTLP over HTTP; needs ``stillroom[otel]``."""

    endpoint: str | None = None
    """URL of a receiver (``http://127.0.0.1:4318``), to which ``/v1/traces`` is added; unset: nothing is traced."""
    headers_env: str = "OTEL_EXPORTER_OTLP_HEADERS"
    """Environment variable of further headers for it, as in ``authorization=Bearer%20KEY,x-other=1``."""
    sample_ratio: float = 1.0
    """Share of the requests that is traced; one that comes with a trace of its own is traced as that one is."""
    service_name: str = "stillroom"
    """``service.name`` of the spans."""
    content: bool = False
    """Whether messages and answers are in the spans, where their content may be kept at all."""


class BatchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``/v1/files`` and ``/v1/batches`` take, and how much of the models."""

    concurrency: int = 4
    """Lines asked at once in a gateway process, less what other requests it has in flight, and at least one."""
    max_file_bytes: int = 100 * 1024 * 1024
    """A larger file is refused with status 413; not changed by SIGHUP."""
    max_lines: int = 50_000
    """A batch of more lines fails."""
    keep_days: float = 30.0
    """How long files are kept, uploaded ones and those that batches write, unless the client wants less."""


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the gateway listens, and its bounds."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8080
    """TCP port to listen on."""
    workers: int = 1
    """Processes that serve it, each with limits of its own without ``redis_url``; about one for each core."""
    drain_seconds: float = 30.0
    """How long a shutdown waits for running answers."""
    drain_delay_seconds: float = 0.0
    """How long before that requests are still taken while ``/readyz`` says 503, for load balancers to notice."""
    max_body_bytes: int = 10 * 1024 * 1024
    """A larger request body is refused with status 413."""
    max_header_bytes: int = 32 * 1024
    """A larger header block is refused with status 431."""
    requests_per_minute: int = 6000
    """Limit of each key in each gateway process, or in all with ``redis_url``; 0 for none."""
    tokens_per_minute: int = 0
    """The same of tokens, prompts and answers together; 0 for none."""
    max_in_flight: int = 2048
    """More requests at once in a gateway process are refused with status 429."""
    log_content: bool = True
    """False keeps no request content at all, so nothing can be distilled from."""
    total_timeout_seconds: float = 600.0
    """Longest time for a whole request, whoever answers it."""
    max_retry_after_seconds: float = 2.0
    """An upstream that asks for a longer pause is not tried again; its ``retry-after`` is passed on."""
    student_when_teacher_down: bool = True
    """Whether the student may answer for a teacher that is down; ``x-stillroom-fallback: off`` refuses it."""
    redis_url: str | None = None
    """Where gateways count limits and budgets together, as in ``redis://host:6379/0``; unset: each for itself."""
    tracing: TracingSettings = TracingSettings()
    """Where spans are sent, if anywhere."""
    batches: BatchSettings = BatchSettings()
    """Requests that come as a file."""


class FallbackTeacher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further teacher, asked where those before it fail. Answers of another model are not distilled from."""

    base_url: str
    """Up to and including ``/v1``."""
    model: str
    """The model's name at that URL."""
    api_key_env: str = "TEACHER_API_KEY"
    """Environment variable that holds its key; without it, none is sent."""
    price: Price | None = None
    """What it costs; unset: what the teacher does."""


class TeacherSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The frontier model: any OpenAI-compatible URL."""

    base_url: str = "https://api.openai.com/v1"
    """Up to and including ``/v1``."""
    model: str = "gpt-5"
    """The model's name at that URL."""
    api_key_env: str = "TEACHER_API_KEY"
    """Environment variable that holds the key; without it, none is sent."""
    price: Price = Price()
    """What the teacher costs."""
    top_logprobs: int = 20
    """Soft targets to harvest per token; 0 for a teacher without them."""
    terms_allow_training: bool = True
    """Whether its provider's terms let a student be trained on its answers; false refuses every distillation."""
    connect_timeout_seconds: float = 5.0
    """How long a connection may take."""
    first_byte_timeout_seconds: float = 120.0
    """Longest wait for the first bytes of an answer, connecting included; ``timeout_seconds`` bounds it too."""
    timeout_seconds: float = 120.0
    """Longest wait for the next bytes of an answer."""
    total_timeout_seconds: float = 600.0
    """Longest time for all attempts and the whole answer."""
    retries: int = 2
    """Further attempts over all teachers, before the first byte of an answer."""
    hedge_after_seconds: float = 0.0
    """Ask a second time when the first byte takes longer; the first answer wins. 0 for never."""
    fallbacks: tuple[FallbackTeacher, ...] = ()
    """Further teachers, asked in this order."""


class EmbeddingsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where ``/v1/embeddings`` is answered: any OpenAI-compatible URL."""

    base_url: str | None = None
    """Up to and including ``/v1``; unset: there are no embeddings."""
    model: str = "text-embedding-3-small"
    """The model's name at that URL, which clients send."""
    models: tuple[str, ...] = ()
    """Further models at that URL that clients may send."""
    api_key_env: str = "EMBEDDINGS_API_KEY"
    """Environment variable that holds the key; without it, none is sent."""
    price: Price = Price()
    """What embeddings cost."""
    connect_timeout_seconds: float = 5.0
    """How long a connection may take."""
    timeout_seconds: float = 60.0
    """Longest wait for the next bytes of an answer."""


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether API keys are asked for. ``required = false`` is taken on loopback only."""

    required: bool = True
    """False lets everyone in, with all scopes."""


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One receiver of events: they are posted to it, signed, until it takes them (docs/webhooks.md)."""

    name: str
    """What it is called in lists and logs; deliveries belong to the name."""
    url: str
    """Where events are posted: https, unless ``allow_http`` says otherwise. It is never shown or logged."""
    secret_env: str
    """Environment variable of the secret that signs them: ``whsec_`` and base64, or two with a space between."""
    events: tuple[str, ...] = ("*",)
    """Which events: ``job.failed``, ``job.*`` for a whole group, ``*`` for all."""
    allow_http: bool = False
    """Whether the URL may be http, where nothing protects what is sent on its way."""
