"""``python -m atspeed``."""

from atspeed.cli import main
from atspeed.errors import explained_errors

if __name__ == "__main__":
    with explained_errors():
        main()
