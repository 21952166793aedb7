"""python sample.py: the command ``oboro sample``, from a clone."""

from oboro.cli.sample import main

if __name__ == "__main__":
    main()
