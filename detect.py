"""python detect.py: the command ``oboro detect``, from a clone."""

from oboro.cli.run import run

if __name__ == "__main__":
    run("detect")
