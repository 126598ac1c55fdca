"""What pytest leaves out, wherever it is started."""

collect_ignore = ["callbacks"]  # seen as atspeed/callbacks, a link to it
