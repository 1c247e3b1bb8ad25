"""`python -m vidai` is the vidai command."""

from vidai.cli import main

main()
