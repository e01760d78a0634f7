"""The commands, a module per noun."""
