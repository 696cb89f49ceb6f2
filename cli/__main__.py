"""The command `manifold`, as `python -m manifold.cli`."""

from manifold.cli import main

main()
