"""Choosing for every request anew where to cut, from what the link and the server did lately."""
