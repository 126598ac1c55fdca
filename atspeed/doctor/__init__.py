"""What a checkpoint is checked for before it is used. No Lightning."""

from atspeed.doctor.doctor import Doctor

__all__ = ["Doctor"]
