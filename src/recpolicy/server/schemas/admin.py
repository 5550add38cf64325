"""Answers of the admin API on keys, versions and the audit, as its OpenAPI page shows them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.schemas.responses import ErrorResponse

ADMIN_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "No key, or one that is not known or was revoked (`unauthorized`)."},
    403: {"model": ErrorResponse, "description": "The key's role is too low (`forbidden`)."},
    404: {"model": ErrorResponse, "description": "There is no such thing (`not_found`)."},
    409: {"model": ErrorResponse, "description": "It cannot be done as things are (`conflict`)."},
    **{status: ERROR_RESPONSES[status] for status in (413, 422, 429, 503)},
}

Role = Literal["client", "reader", "operator"]


class RoutingResponse(BaseModel):
    """Who serves whom."""

    champion: int | None
    challenger: int | None
    previous: int | None = Field(description="The champion before this one, to which a roll-back goes.")
    share: float = Field(description="Of the users, how many are the challenger's.")
    shadow: bool
    exploration: bool = Field(description="Whether a share of the lists is drawn to learn.")


class RoutingChangeResponse(BaseModel):
    """How things are after a change, which is in effect when this arrives."""

    routing: RoutingResponse
    ms: float = Field(description="Milliseconds that the change took.", examples=[12.5])


class VersionResponse(BaseModel):
    """One version."""

    number: int
    aliases: list[str] = Field(examples=[["champion"]])
    agent: str
    content: str = Field(description="SHA-256 of what the policy learnt.")
    digest: str = Field(description="SHA-256 of the artifact.")
    registered_at: str
    lineage: dict[str, Any] = Field(description="Data and splits by digest, settings, parents.")
    verdict: str | None = Field(description="Of the gate that let it in: pass, fail, no_verdict; null without one.")
    metrics: dict[str, Any] = Field(description="Figures of the training, else those that the gate judged by.")
    note: dict[str, Any] | None = Field(description="Who registered it, where that was told.")
    gate: dict[str, Any] | None = Field(None, description="The gate's whole record; not in lists.")


class VersionList(BaseModel):
    """All versions, oldest first."""

    routing: RoutingResponse
    versions: list[VersionResponse]


class KeyResponse(BaseModel):
    """One API key; the key itself is kept nowhere."""

    name: str
    role: Role
    created_at: int = Field(description="Milliseconds since 1970, UTC.")
    revoked_at: int | None


class KeyList(BaseModel):
    """All keys, oldest first."""

    keys: list[KeyResponse]


class NewKey(KeyResponse):
    """A key that was just made."""

    key: str = Field(description="Shown this once.", examples=["rp_..."])


class AuditLine(BaseModel):
    """One change."""

    seq: int
    time: int = Field(description="Milliseconds since 1970, UTC.")
    actor: str = Field(description="Name of the key, or `server`.")
    action: str
    detail: dict[str, Any]


class AuditList(BaseModel):
    """The last changes, newest first."""

    audit: list[AuditLine]
