"""`python -m worldlab` is the command `worldlab`."""

from worldlab.cli import main

if __name__ == "__main__":
    main()
