"""`python -m bottlekit` is the `bottlekit` command."""

from bottlekit.cli.main import main

main()
