"""python sample.py: the command ``oboro sample``, from a clone."""

from oboro.cli.run import run

if __name__ == "__main__":
    run("sample")
