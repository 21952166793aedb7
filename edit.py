"""python edit.py: the command ``oboro edit``, from a clone."""

from oboro.cli.run import run

if __name__ == "__main__":
    run("edit")
