"""The command `manifold`, as `python -m manifold.cli`."""

from manifold.cli import command

command()
