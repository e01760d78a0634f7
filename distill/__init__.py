"""Distillation: datasets, soft targets, losses, training, the gate. Importing the room loads no torch."""
