"""Training measured beside TRL's trainers: the same model, rows, batch size and machine."""
