"""The configs that come with the package, found by their names."""

import re
from pathlib import Path

from atspeed.cli.messages import suggestion

CONFIGS = Path(__file__).parents[1] / "configs"


def find_config(value: str) -> str:
    """Return the file that an option ``--config`` stands for.

    An existing file is taken as it is named. Otherwise a name without a folder stands for the config of that name that
    comes with the package, in whichever subfolder: ``ddp.yaml`` is ``hardware/ddp.yaml``.

    Args:
        value: the option's value. One that is not the name of a file (YAML text, an address, ``-``) is returned
            unchanged.

    Raises:
        FileNotFoundError: if there is no such file; the message names a config that was probably meant.
    """
    if value == "-" or re.search(r"[\s{\[]|://", value) or Path(value).is_file():
        return value
    shipped = {file.name: file for file in CONFIGS.rglob("*.yaml")}
    name = Path(value).name
    if value in shipped:
        return str(shipped[value])
    if name in shipped:  # moved to a subfolder, or run from outside the repository
        raise FileNotFoundError(
            f"there is no config {value!r}; atspeed has configs/{shipped[name].relative_to(CONFIGS)}, "
            f"which --config {name} finds from any folder"
        )
    stems = [file.stem for file in shipped.values()]
    meant = suggestion(Path(value).stem, stems).replace("'?", ".yaml'?")  # all names are similar in their suffix
    raise FileNotFoundError(f"there is no config {value!r}{meant}")
