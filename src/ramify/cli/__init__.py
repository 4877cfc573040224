"""The command line: one file per command, all mounted in `main.py`."""
