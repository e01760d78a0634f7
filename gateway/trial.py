"""The release that is tried beside the live one, and which conversations it takes."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from gateway.call import Call
from gateway.live_release import LiveRelease
from ledger.canaries import Mode
from ledger.conversations import USER_FIELDS, conversation_id

__all__ = ("OnTrial",)

DRAWS: Final = 2**64


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A canary whose router was read and whose students are ready."""

    release: LiveRelease
    mode: Mode
    share: float
    figures: dict[str, Any]
    """Of the newest look at it."""

    def takes(self, call: Call) -> bool:
        """Whether the call's conversation is among its share, as every call of the conversation then is.

        Drawn by key, end user and first message, which stay while a conversation goes on; anew for every release, so
        that it is not always the same people on whom one is tried.
        """
        user = next((call.body[name] for name in USER_FIELDS if isinstance(call.body.get(name), str)), "")
        drawn = (self.release.id, call.key_id or "", user, conversation_id(call.messages))
        digest = hashlib.sha256("\0".join(drawn).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.share * DRAWS
