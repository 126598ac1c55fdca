"""The service under Ray Serve: replicas of the same app, a device each."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atspeed.recommender import Bundle, Recommender
from atspeed.serving.app import create_app
from atspeed.serving.guard import REQUEST_ID
from atspeed.serving.security import read_token
from atspeed.serving.server import TOKEN
from atspeed.serving.service_settings import ServiceSettings

try:
    from ray import serve
except ModuleNotFoundError as error:
    raise ImportError("atspeed.serving.ray needs Ray; install it with: pip install 'atspeed[ray]'") from error

NAME = "atspeed"
LOADING = ("device", "dtype", "check", "trust_code")
SERVICE = {field.name for field in fields(ServiceSettings)} - {"changes_catalog", "token", "catalog_token"}
"""The settings of the service that :func:`build` takes."""
REPLICAS = {"num_cpus": 1, "num_gpus": 0, "min_replicas": 1, "drain_seconds": 30}


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application, for ``serve run atspeed.serving.ray:build bundle=/path`` and config files.

    A replica takes requests when it has loaded and warmed up; Ray replaces one whose service fails. Deploying again
    with another bundle replaces one replica after the other, and those that go finish what they have accepted. The old
    one goes before the new one loads, so with a single replica requests wait meanwhile. Replicas do not change their
    catalog: a new catalog is a new bundle.

    Args:
        args: ``bundle``, a folder that all machines see; ``device``, ``dtype``, ``check`` and ``trust_code`` as of
            ``python -m atspeed serve``; any of :class:`ServiceSettings`; ``num_cpus`` (1) and ``num_gpus`` (0) of a
            replica; ``min_replicas`` (1), ``max_replicas`` (as many) and ``target_ongoing_requests`` (``max_batch``)
            for autoscaling; ``drain_seconds`` (30).

    Raises:
        FileNotFoundError: if there is no bundle.
        ValueError: if a name is unknown, a value is out of range, or the bundle is missing or damaged.
    """
    given = dict(args)
    if "bundle" not in given:
        raise ValueError("bundle is missing; say where it is, for example bundle=/shared/recommender")
    bundle = Path(given.pop("bundle"))
    loading = {name: given.pop(name) for name in LOADING if name in given}
    if "trust_code" in loading:
        loading["trust_code"] = _number("trust_code", loading["trust_code"])
    own = {name: _number(name, given.pop(name)) for name in [*given] if name in SERVICE}
    settings = ServiceSettings(**own, changes_catalog=False)
    usual = REPLICAS | {"max_replicas": given.get("min_replicas", 1), "target_ongoing_requests": settings.max_batch}
    replicas = {name: _number(name, given.pop(name, value)) for name, value in usual.items()}
    if given:
        known = ", ".join(sorted({"bundle", *LOADING, *SERVICE, *usual}))
        raise ValueError(f"there is no setting {min(given)!r}; there are {known}")
    # a bad bundle is refused here, before any replica is stopped
    Bundle(bundle, loading.get("check", "full"), loading.get("trust_code", False))
    # above what a replica accepts, so that it refuses the others itself (429), and its probes are answered meanwhile
    most = 2 * (settings.max_queue + settings.max_batch)

    def make_app() -> FastAPI:  # in the process of a replica, whose environment has the tokens
        app = create_app(
            lambda: Recommender.load(bundle, **loading),
            replace(settings, token=read_token(TOKEN)),
            starts_ready=True,
        )
        app.add_middleware(LeaveRequestIdToProxy)
        return app

    deploy = serve.deployment(
        name=NAME,
        ray_actor_options={name: replicas[name] for name in ("num_cpus", "num_gpus")},
        max_ongoing_requests=most,
        max_queued_requests=most,  # that wait for a replica; without it, Ray's queue has no end
        graceful_shutdown_timeout_s=replicas["drain_seconds"],
        health_check_period_s=2,
        autoscaling_config={
            name: replicas[name] for name in ("min_replicas", "max_replicas", "target_ongoing_requests")
        },
    )

    @serve.ingress(make_app)
    class Replica:
        app: FastAPI  # set by Ray

        def check_health(self) -> None:
            """Raise if the service has failed: Ray then replaces the replica."""
            failure = self.app.state.service.failure
            if failure is not None:
                raise RuntimeError("the service has failed") from failure

    return deploy(Replica).bind()


class LeaveRequestIdToProxy:
    """ASGI middleware without which answers have the header twice: Ray's proxy gives each request an ID and adds it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer without the header."""

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID]
            await send(message)

        await self.app(scope, receive, send_without_id)


def _number(name: str, value: Any) -> Any:
    """Return a value that the command line of Ray gives as a text."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value) if value.isdigit() else float(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; expected a number, true or false") from error
