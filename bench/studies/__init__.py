"""Studies on real models: what a choice of the distillation does to the student. Each says how it is run."""
