"""What an operator of a server needs around it, in modern Python: certificates, metrics, a live view."""
