"""Head and tail as two processes across a shaped link; see README.md."""
