"""``python -m atspeed``."""

from atspeed.cli import main

if __name__ == "__main__":
    main()
