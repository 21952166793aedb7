"""python evaluate.py: the command ``oboro evaluate``, from a clone."""

from oboro.cli.evaluate import main

if __name__ == "__main__":
    main()
