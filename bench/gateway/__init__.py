"""The gateway's speed, side by side with whichever peers are installed: ``make bench-gateway``."""
