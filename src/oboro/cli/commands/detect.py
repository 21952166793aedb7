"""``oboro detect``"""

from oboro.cli.start import start

if __name__ == "__main__":
    start("detect")
