"""Programs that print figures about the server: run them with `python -m benchmarks.NAME` from the repository."""
