"""The tables of the settings that the gateway reads: ``[gateway]``, ``[teacher]`` and ``[auth]``."""

import msgspec

from ledger.prices import Price

__all__ = ("AuthSettings", "GatewaySettings", "TeacherSettings")


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the gateway listens, and its bounds."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8080
    """TCP port to listen on."""
    drain_seconds: float = 30.0
    """How long a shutdown waits for running answers."""
    max_body_bytes: int = 10 * 1024 * 1024
    """A larger request body is refused with status 413."""
    max_header_bytes: int = 32 * 1024
    """A larger header block is refused with status 431."""
    requests_per_minute: int = 6000
    """Limit of each key in each gateway process; 0 for none."""
    log_content: bool = True
    """False keeps no request content at all, so nothing can be distilled from."""


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
    connect_timeout_seconds: float = 5.0
    """How long a connection may take."""
    timeout_seconds: float = 120.0
    """Longest wait for the next bytes of an answer."""


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether API keys are asked for. ``required = false`` is taken on loopback only."""

    required: bool = True
    """False lets everyone in, with all scopes."""
