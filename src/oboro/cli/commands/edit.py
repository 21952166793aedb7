"""``oboro edit``"""

from oboro.cli.start import start

if __name__ == "__main__":
    start("edit")
