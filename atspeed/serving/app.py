"""The routes of the service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Discriminator, Tag
from starlette.exceptions import HTTPException

from atspeed.provenance import versions
from atspeed.recommender import Recommender, edit_items
from atspeed.serving import schemas
from atspeed.serving.guard import CLOSED, Guard
from atspeed.serving.item_lookup import look_up, search
from atspeed.serving.logs import FIELDS
from atspeed.serving.problems import (
    MANY,
    MEDIA_TYPE,
    ONE,
    ProblemError,
    on_http_exception,
    on_invalid_body,
    on_problem,
)
from atspeed.serving.recommending import answer_json, check_sizes, checked
from atspeed.serving.service import READY, Service
from atspeed.serving.service_settings import ServiceSettings

T = TypeVar("T")

PAGE = Path(__file__).with_name("page")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
OUTCOMES = {422: "refused", 429: "queue full", 503: "not ready", 504: "late", 500: "failed", CLOSED: "closed"}
Asked = Annotated[
    Annotated[schemas.RecommendationRequest, Tag(ONE)] | Annotated[schemas.RecommendationRequests, Tag(MANY)],
    Discriminator(lambda body: MANY if isinstance(body, dict) and "requests" in body else ONE),
]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of problems that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    described: dict[int | str, dict[str, Any]] = {
        "default": {"model": schemas.ProblemDetails, "description": "problem"}
    }
    for status in statuses:
        described[status] = {"description": ProblemError.title_of(status), "content": content}
    return described


def create_app(
    load: Callable[[], Recommender],
    settings: ServiceSettings | None = None,
    state: Path | None = None,
    starts_ready: bool = False,
) -> FastAPI:
    """Return the app; it loads the recommender when it starts, and is ready when ``GET /ready`` says so.

    Args:
        load: returns the recommender.
        settings: limits and secrets.
        state: folder of accepted catalog versions; None: they last as long as the process.
        starts_ready: whether the start of the app waits until it is ready, and fails if it cannot be.
    """
    service = Service(load, settings or ServiceSettings(), state)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        if starts_ready:
            await service.starting
            if service.failure is not None:
                raise service.failure
        yield
        await service.stop()

    app = FastAPI(
        title="atspeed",
        version=versions()["atspeed"],
        summary="Top-K recommendations by speculative beam decoding",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid_body)
    add_recommendations(app, service)
    add_catalog(app, service)
    add_status(app, service)
    add_page(app)
    return app


def add_recommendations(app: FastAPI, service: Service) -> None:
    """Add the route that everything else is for."""

    @app.post(
        "/v1/recommendations",
        response_model=schemas.RecommendationAnswer | schemas.RecommendationAnswers,
        responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
    )
    async def recommend(asked: Asked, http: Request) -> JSONResponse:
        """Recommend items for one history, or for many."""
        many = isinstance(asked, schemas.RecommendationRequests)
        each = asked.requests if isinstance(asked, schemas.RecommendationRequests) else [asked]
        fields = getattr(http.state, FIELDS)
        fields["requests"] = len(each)
        outcome = "failed"
        try:
            recommender = service.recommender
            check_sizes(each, service.settings)
            fields["history_lengths"] = [len(one.history) for one in each]
            if service.settings.log_histories:
                fields["histories"] = [one.history for one in each]
            requests = await checked(recommender, each)
            timeout_ms = min((one.timeout_ms for one in each if one.timeout_ms is not None), default=None)
            answered = await unless_closed(http, service.answer(requests, timeout_ms))
            outcome = "answered"
        except ProblemError as problem:
            outcome = OUTCOMES[problem.status]
            raise
        finally:
            fields["outcome"] = outcome
            service.metrics.recommendations.labels(outcome).inc(len(each))
        answers = [answer_json(*pair) for pair in zip(requests, answered, strict=True)]
        fields.update({name: [answer[name] for answer in answers] for name in ("wait_ms", "decode_ms", "batch_size")})
        return JSONResponse({"answers": answers} if many else answers[0])


async def unless_closed(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, but stop when the client closes the connection.

    Raises:
        ProblemError: 499 if it did; nobody will read it.
    """

    async def closed() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.create_task(work), asyncio.create_task(closed())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ProblemError(CLOSED, "the client has closed the connection")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def add_catalog(app: FastAPI, service: Service) -> None:
    """Add the routes of the catalog and its items."""

    def described() -> schemas.CatalogSummary:
        recommender = service.recommender
        served = recommender.served
        return schemas.CatalogSummary(
            catalog_version=served.version,
            num_items=served.catalog.num_items,
            versions=service.versions.known(),
            columns=served.text_columns,
            levels=served.catalog.num_levels,
            num_beams=recommender.num_beams,
            verification=recommender.method().verification,
        )

    @app.get("/v1/catalog", responses=problems(401, 503))
    async def describe_catalog() -> schemas.CatalogSummary:
        """Describe the catalog that is served."""
        return described()

    @app.post("/v1/catalog", responses=problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503))
    async def change_catalog(change: schemas.CatalogChange) -> schemas.CatalogSummary:
        """Add, replace and remove items; needs the catalog's own token."""
        count = len(change.add) + len(change.replace) + len(change.remove)
        if count > service.settings.max_listed:
            raise ProblemError(422, f"the change names {count} items; at most {service.settings.max_listed} at a time")
        await service.change_catalog(lambda items: edit_items(items, change.add, change.replace, change.remove))
        return described()

    @app.post("/v1/catalog/rollback", responses=problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503))
    async def roll_back(asked: schemas.Rollback) -> schemas.CatalogSummary:
        """Serve the items of an older version again, under a new number; needs the catalog's own token."""
        service.recommender  # noqa: B018  (503 if it is not ready)
        await service.roll_back(asked.version)
        return described()

    @app.get("/v1/items", responses=problems(401, 422, 503))
    async def find_items(
        query: Annotated[str, Query(max_length=200)] = "", limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> schemas.FoundItems:
        """Find items by a part of their name or title."""
        found = await asyncio.to_thread(search, service.recommender.served, query, limit)
        return schemas.FoundItems(items=found)

    @app.get("/v1/items/{name:path}", responses=problems(401, 404, 503))
    async def look_up_item(name: str) -> schemas.CatalogItem:
        """Return an item with its metadata."""
        return look_up(service.recommender.served, name)


def add_status(app: FastAPI, service: Service) -> None:
    """Add the routes for probes and Prometheus."""

    @app.get("/health")
    async def health() -> schemas.Status:
        """Say that the process lives."""
        return schemas.Status(status="ok")

    @app.get("/ready", responses={503: {"model": schemas.Status}})
    async def ready() -> JSONResponse:
        """Say whether requests are answered now."""
        return JSONResponse({"status": service.status}, 200 if service.status == READY else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def add_page(app: FastAPI) -> None:
    """Add the page, to try the service with; it needs no token, but what it asks for does."""
    if not PAGE.is_dir():
        return

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    app.mount("/page", StaticFiles(directory=PAGE))
