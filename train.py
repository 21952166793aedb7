"""python train.py: the command ``oboro train``, from a clone."""

from oboro.cli.train import main

if __name__ == "__main__":
    main()
