"""Meters: everything that can say how much power this machine draws, behind one protocol (meter.py)."""
