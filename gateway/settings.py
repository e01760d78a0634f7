"""The tables of the settings that the gateway reads: ``[gateway]``, ``[teacher]`` and ``[auth]``."""

import msgspec

from ledger.prices import Price

__all__ = ("AuthSettings", "GatewaySettings", "TeacherSettings")


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the gateway listens, and its bounds."""

    host: str = "127.0.0.1"
    port: int = 8080
    drain_seconds: float = 30.0
    max_body_bytes: int = 10 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    requests_per_minute: int = 6000
    """Limit of each key in each gateway process; 0 for none."""
    log_content: bool = True
    """False keeps no request content at all, so nothing can be distilled from."""


class TeacherSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The frontier model: any OpenAI-compatible URL."""

    base_url: str = "https://api.openai.com/v1"
    model: str = "gpt-5"
    api_key_env: str = "TEACHER_API_KEY"
    price: Price = Price()
    top_logprobs: int = 20
    """Soft targets to harvest per token; 0 for a teacher without them."""
    connect_timeout_seconds: float = 5.0
    timeout_seconds: float = 120.0


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether API keys are asked for. ``required = false`` is taken on loopback only."""

    required: bool = True
