"""``/v1/responses``: OpenAI's newer shape of a conversation, asked of the upstreams as a chat."""
