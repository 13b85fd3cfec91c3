"""`python -m sweeps` is the command `sweeps`."""

from sweeps.cli.app import main

if __name__ == "__main__":
    main(prog_name="sweeps")
