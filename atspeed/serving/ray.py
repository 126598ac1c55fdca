"""The service under Ray Serve: replicas of the same app, a device each."""

from dataclasses import fields
from typing import Any

from fastapi import FastAPI

from atspeed.recommender import Recommender
from atspeed.serving.app import create_app
from atspeed.serving.security import read_token
from atspeed.serving.server import CATALOG_TOKEN, TOKEN
from atspeed.serving.service_settings import ServiceSettings

try:
    from ray import serve
except ModuleNotFoundError as error:
    raise ImportError("atspeed.serving.ray needs Ray; install it with: pip install 'atspeed[ray]'") from error

NAME = "atspeed"
SERVICE = {field.name: field.type for field in fields(ServiceSettings)}
"""The settings that :func:`build` passes on."""


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application, for ``serve run atspeed.serving.ray:build bundle=/path`` and config files.

    A replica takes requests when it has loaded and warmed up. Deploying again with another bundle replaces one replica
    after the other, and those that go finish what they have accepted. Replicas do not change their catalog: a new
    catalog is a new bundle.

    Args:
        args: ``bundle``, a folder that all machines see; ``device``, ``dtype``, ``check`` and ``trust_code`` as of
            ``python -m atspeed serve``; any of :class:`ServiceSettings`; ``num_cpus`` (1) and ``num_gpus`` (0) of a
            replica; ``min_replicas`` (1), ``max_replicas`` (as many) and ``target_ongoing_requests`` (``max_batch``)
            for autoscaling; ``drain_seconds`` (30).

    Raises:
        ValueError: if a name is unknown, ``bundle`` is missing, or a value is out of range.
    """
    given = dict(args)
    if "bundle" not in given:
        raise ValueError("bundle is missing; say where it is, for example bundle=/shared/recommender")
    loading = {name: given.pop(name) for name in ("device", "dtype", "check", "trust_code") if name in given}
    bundle = given.pop("bundle")
    own = {name: _number(name, given.pop(name)) for name in [*given] if name in SERVICE and "token" not in name}
    settings = ServiceSettings(**{**own, "changes_catalog": False})
    usual = {"num_cpus": 1, "num_gpus": 0, "min_replicas": 1, "drain_seconds": 30}
    usual |= {"max_replicas": given.get("min_replicas", 1), "target_ongoing_requests": settings.max_batch}
    replicas = {name: _number(name, given.pop(name, value)) for name, value in usual.items()}
    if given:
        raise ValueError(f"there is no setting {min(given)!r}")

    def make_app() -> FastAPI:  # in the process of a replica, whose environment has the tokens
        secrets = {"token": read_token(TOKEN), "catalog_token": read_token(CATALOG_TOKEN)}
        return create_app(
            lambda: Recommender.load(bundle, **loading),
            ServiceSettings(**{**vars(settings), **secrets}),
            starts_ready=True,
        )

    deploy = serve.deployment(
        name=NAME,
        ray_actor_options={name: replicas[name] for name in ("num_cpus", "num_gpus")},
        max_ongoing_requests=settings.max_queue + settings.max_batch,
        graceful_shutdown_timeout_s=replicas["drain_seconds"],
        health_check_period_s=2,
        autoscaling_config={
            name: replicas[name] for name in ("min_replicas", "max_replicas", "target_ongoing_requests")
        },
    )
    return deploy(serve.ingress(make_app)()).bind()


def _number(name: str, value: Any) -> Any:
    """Return a value that the command line of Ray gives as a text."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value) if value.isdigit() else float(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; expected a number") from error
