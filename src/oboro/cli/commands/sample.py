"""``oboro sample``"""

from oboro.cli.start import start

if __name__ == "__main__":
    start("sample")
