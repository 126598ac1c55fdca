"""``python -m atspeed``."""

from atspeed.cli.main import console

if __name__ == "__main__":
    console()
