"""Servers: a reward behind an HTTP endpoint."""
