"""From a bundle to engines for one target: choose, lower, compile, compare, cache."""
