"""The JSON of requests and answers."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_validator,
)

from atspeed.recommender.recommender import LARGEST_SEED

MOST_KEYS = 100
MOST_REQUESTS = 1024
"""Most requests of a POST, whatever the settings: more would be refused too late."""
LONGEST_NAME = 1000

ItemName = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=LONGEST_NAME)]
Item = Annotated[ItemName | StrictInt, Field(description="name of an item; a number is the name that it is written as")]
Text = Annotated[str, StringConstraints(strict=True, max_length=1000)]

T = TypeVar("T")
# describing what is wrong with each of 300,000 elements would take seconds, in which nobody else is answered
FirstError = Annotated[list[T], Field(fail_fast=True)]


def _few_keys(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_KEYS:
        raise ValueError(f"{len(value)} keys; at most {MOST_KEYS}")
    return value


def _nameable(item: dict[str, Any]) -> dict[str, Any]:
    """Refuse a new item that no request could name, not even one to remove it; what is no text is refused later."""
    name = item.get("item")
    if isinstance(name, str) and not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(f"the name of an item has {len(name)} characters; expected 1 to {LONGEST_NAME}")
    return item


NewItem = Annotated[dict[str, Any], AfterValidator(_nameable)]


class Body(BaseModel):
    """A body in which unknown fields are errors; a list is described up to its first error."""

    model_config = ConfigDict(extra="forbid")

    _few_fields = model_validator(mode="before")(_few_keys)


class RecommendationRequest(Body):
    """One request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": ["item-3", "item-14", "item-15"], "k": 5, "exclude_seen": True}]}
    )
    history: FirstError[Item] = Field(description="items, oldest first; empty: popular items are recommended")
    k: StrictInt | None = Field(
        None,
        ge=1,
        description="how many semantic IDs, at most the beam width; 10 by default, or the beam width if less",
    )
    exclude_seen: StrictBool | None = Field(
        None, description="leave out the items of the history; default: the bundle's"
    )
    allow: FirstError[Item] | None = Field(None, description="the only items that may be recommended")
    deny: FirstError[Item] = Field([], description="items that may not be recommended")
    where: Annotated[dict[Text, FirstError[Text]], BeforeValidator(_few_keys)] = Field(
        {}, description="metadata column → values, one of which an item must have", examples=[{"category": ["tea"]}]
    )
    verification: Literal["strict", "bounded", "relaxed", "lossless"] | None = Field(
        None, description="how proposals are verified; default: the bundle's"
    )
    speculation: StrictBool = Field(True, description="false: plain beam search, which has the same strict answer")
    seed: StrictInt | None = Field(
        None, ge=0, le=LARGEST_SEED, description="of relaxed and lossless verification: repeats its answer"
    )
    skip_unknown_items: StrictBool = Field(False, description="leave out items of the history that are unknown")
    timeout_ms: StrictInt | None = Field(None, ge=1, description="deadline, at most the service's")


class RecommendationRequests(Body):
    """Several requests, which are answered all or none."""

    requests: FirstError[RecommendationRequest] = Field(min_length=1, max_length=MOST_REQUESTS)


class ItemSummary(BaseModel):
    """An item."""

    id: str
    title: str | None


class RecommendedSid(BaseModel):
    """A recommended semantic ID."""

    items: list[ItemSummary] = Field(description="the items that share it")
    sid: list[str]
    score: float = Field(description="log-probability, in nats")


class RecommendationAnswer(BaseModel):
    """The answer to one request."""

    recommendations: list[RecommendedSid]
    target_calls: int
    draft_calls: int
    accepted_levels: int
    source: Literal["model", "popularity"] = Field(description="popularity: the history was empty")
    verification: str
    seed: int | None = Field(description="of a verification that samples")
    catalog_version: int
    skipped_items: list[str] = Field(description="unknown items of the history that were left out")
    wait_ms: float
    decode_ms: float
    batch_size: int


class RecommendationAnswers(BaseModel):
    """The answers to several requests, in their order."""

    answers: list[RecommendationAnswer]


class CatalogItem(BaseModel):
    """An item with its metadata."""

    id: str
    title: str | None
    sid: list[str]
    metadata: dict[str, Any]


class FoundItems(BaseModel):
    """Items that were found."""

    items: list[ItemSummary]


class CatalogChange(Body):
    """A change of the catalog."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"add": [{"item": "new", "sid": ["<a_3>", "<b_1>", "<c_7>", "<d_0>"]}]}]}
    )
    add: FirstError[NewItem] = Field([], description="new items: item, sid, and other columns of the catalog")
    replace: FirstError[dict[str, Any]] = Field([], description="other values of items that are there, by item")
    remove: FirstError[ItemName] = Field([], description="names of items")


class Rollback(Body):
    """Which version to go back to."""

    version: StrictInt | None = Field(None, ge=1, description="default: the version before the newest")


class CatalogSummary(BaseModel):
    """The catalog that is served."""

    catalog_version: int
    num_items: int
    versions: list[int] = Field(description="versions that can be gone back to")
    columns: list[str] = Field(description="metadata columns that a request's where takes")
    levels: int
    num_beams: int = Field(description="the largest k")
    verification: str = Field(description="of requests that name none")


class Status(BaseModel):
    """Of the service."""

    status: str


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="the request ID, which the log lines have too")
    errors: list[dict[str, str]] = []
