"""The command line: ``python -m atspeed COMMAND``, or the console command ``atspeed COMMAND``."""
