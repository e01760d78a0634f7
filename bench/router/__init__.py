"""The router's benchmark."""
