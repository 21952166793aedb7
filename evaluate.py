"""python evaluate.py: the command ``oboro evaluate``, from a clone."""

from oboro.cli.run import run

if __name__ == "__main__":
    run("evaluate")
