"""``/v1/messages``: Anthropic's shape of a conversation, asked of the upstreams as a chat."""
