"""python -m oboro.data.pack: the command ``oboro shards``."""

from oboro.cli.shards import main

if __name__ == "__main__":
    main()
