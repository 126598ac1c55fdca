"""Checks of settings."""


def require_at_least(least: int, **settings: float | None) -> None:
    """Raise ``ValueError`` naming the first setting whose value is below ``least``; None passes.

    A double underscore in a keyword stands for a dot: ``data__batch_size`` is reported as ``data.batch_size``.

    >>> require_at_least(1, data__batch_size=0)
    Traceback (most recent call last):
    ValueError: data.batch_size is 0; expected 1 or more
    """
    for name, value in settings.items():
        if value is not None and value < least:
            raise ValueError(f"{name.replace('__', '.')} is {value}; expected {least} or more")
