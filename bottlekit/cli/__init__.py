"""The command line: one thin Typer verb a file. Stages are imported inside the verbs, so that it starts fast."""
