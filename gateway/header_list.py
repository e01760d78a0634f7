"""The headers that a client may send and gets, with their meanings; docs/reference/headers.md comes from it."""

from typing import Final

__all__ = ("ANSWERED", "PASSED_ON", "SENT")

SENT: Final = {
    "authorization": "`Bearer` and a key. The pages have a session cookie instead.",
    "x-api-key": "The key, as Anthropic's clients send it; `authorization` goes before it.",
    "idempotency-key": "A request that comes again with it gets the first one's answer.",
    "x-stillroom-fallback": "`off`: the student does not answer where the teacher should and is down.",
    "x-stillroom-log": "`off`: nothing of the content is kept, and nothing is trained on.",
    "x-stillroom-route": "Pins the request: `auto`, `student` or `teacher`.",
    "x-stillroom-tags": "Comma-separated, for the ledger.",
    "x-csrf-token": "A page's own token, with every change that a session makes.",
    "x-forwarded-proto": "`https` from a proxy makes the session's cookie one that only HTTPS carries.",
}
"""What the gateway itself reads."""
PASSED_ON: Final = {
    "openai-organization": "As it came.",
    "openai-project": "As it came.",
    "traceparent": "The caller's trace, which the request's span belongs to; the answer has it too.",
    "tracestate": "As it came, beside `traceparent`.",
}
"""What goes on to the upstream that answers."""
ANSWERED: Final = {
    "openai-processing-ms": "The upstream's own.",
    "openai-version": "The upstream's own.",
    "request-id": "The same as `x-request-id`, below `/v1/messages`.",
    "retry-after": "Seconds until another try makes sense: of a limit, of the gateway, or the upstream's own.",
    "webhook-id": "Of a delivery to a webhook: its id, the same at every attempt.",
    "webhook-signature": "Of a delivery to a webhook: HMAC-SHA256 of id, time and body, for each secret.",
    "webhook-timestamp": "Of a delivery to a webhook: the time of this attempt.",
    "x-ratelimit-limit-requests": "The key's requests per minute.",
    "x-ratelimit-limit-tokens": "The key's tokens per minute.",
    "x-ratelimit-remaining-requests": "What is left of them now.",
    "x-ratelimit-remaining-tokens": "What is left of them now.",
    "x-ratelimit-reset-requests": "Time until all are there again, as in `1.5s`.",
    "x-ratelimit-reset-tokens": "Time until all are there again.",
    "x-request-id": "The request's id in the ledger.",
    "x-should-retry": "`false` where trying again cannot help; OpenAI's clients obey.",
    "x-stillroom-idempotent-replay": "`true`: this is an earlier answer, by `idempotency-key`.",
    "x-stillroom-reason": "Why this route.",
    "x-stillroom-release": "The live release, where there is one.",
    "x-stillroom-route": "Who answered: `student` or `teacher`.",
    "x-stillroom-upstream-request-id": "The upstream's own `x-request-id`.",
}
"""What the gateway answers or, to a webhook, sends."""
