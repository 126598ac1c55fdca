"""``python -m atspeed``."""

from atspeed.cli.main import main
from atspeed.cli.messages import explained_errors

if __name__ == "__main__":
    with explained_errors():
        main()
