"""Decides which requests the student may answer; see `policy.decide` and `policy.escalate`."""
