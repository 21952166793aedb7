"""python -m oboro: the console command."""

from oboro.cli.start import main

if __name__ == "__main__":
    main()
