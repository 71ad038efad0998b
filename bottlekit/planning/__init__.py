"""Pure functions over specs and profiles: links, energy, Algorithm 1. No I/O, no clock."""
