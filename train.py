"""python train.py: the command ``oboro train``, from a clone."""

from oboro.cli.run import run

if __name__ == "__main__":
    run("train")
