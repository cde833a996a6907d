"""`python run.py --help` says what this does."""

from saintprune.cli import main

if __name__ == "__main__":
    main()
