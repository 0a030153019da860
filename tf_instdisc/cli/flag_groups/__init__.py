"""Flags by subject, one module each: `--help` shows them in these groups."""
