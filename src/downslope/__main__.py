"""`python -m downslope` is the command `downslope`."""

from downslope.cli import main

if __name__ == "__main__":
    main()
