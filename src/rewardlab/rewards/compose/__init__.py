"""Rewards made of rewards. What an error or an abstention of a part means is in `combining.py`."""
