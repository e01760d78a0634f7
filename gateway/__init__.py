"""The OpenAI-compatible API: auth, routing, relaying, admin."""
