"""`python -m a2d`."""

from a2d.cli import main

main()
