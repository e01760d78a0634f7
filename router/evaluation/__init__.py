"""Measures a router on a table of prompts with two models' scores, as the field does; see `report.evaluate_table`."""
