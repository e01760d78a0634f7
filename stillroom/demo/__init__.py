"""The demo: a support desk's traffic, a stand-in for the frontier teacher, and the report."""
