"""`python -m f2llm` is the command `f2llm`."""

from f2llm.cli import main

main()
