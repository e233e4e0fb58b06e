"""`python -m memvec.cli`."""

from memvec.cli.main import main

main()
