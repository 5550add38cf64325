"""Requests and responses of the Open Inference Protocol (version 2 of KServe's), as the OpenAPI page shows them."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from recpolicy.server.schemas.requests import MAX_ITEMS, MAX_K, MAX_USERS, Text, WholeId, example_config

INPUTS = {"user": MAX_USERS, "item": MAX_ITEMS, "k": 1}
"""Names of the inputs, and the largest number of values of each."""
DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
Shape = Annotated[list[Annotated[int, Field(ge=0, le=MAX_ITEMS)]], Field(min_length=1, max_length=2)]


class InferenceInput(BaseModel):
    """An input tensor, its values one after the other."""

    model_config = example_config(name="user", shape=[2], datatype="INT64", data=[196, 22])

    name: Literal["user", "item", "k"] = Field(
        description="user: ids [n]; item: ids [m], for rating estimates; k: [1], the number of items to recommend."
    )
    shape: Shape = Field(description="Lengths of the axes; their product is the number of values.")
    datatype: DataType = Field(description="Type of the values: an integer type, or BYTES for text.")
    data: Annotated[list[WholeId], Field(min_length=1, max_length=MAX_ITEMS)] = Field(description="The values.")
    parameters: dict[str, Any] | None = Field(default=None, description="Ignored; some clients send it.")

    @model_validator(mode="after")
    def _check_shape(self) -> "InferenceInput":
        if math.prod(self.shape) != len(self.data):
            raise ValueError(f"{self.name}: shape {self.shape}, but {len(self.data)} values")
        if len(self.data) > INPUTS[self.name]:
            raise ValueError(f"{self.name}: {len(self.data)} values; expected at most {INPUTS[self.name]}")
        return self


class InferenceRequest(BaseModel):
    """Rating estimates of n users and m items, or k recommendations for each of n users."""

    model_config = example_config(
        inputs=[
            {"name": "user", "shape": [2], "datatype": "INT64", "data": [196, 22]},
            {"name": "k", "shape": [1], "datatype": "INT64", "data": [3]},
        ]
    )

    id: Annotated[Text, Field(max_length=200)] | None = Field(default=None, description="Returned unchanged.")
    inputs: Annotated[list[InferenceInput], Field(min_length=1, max_length=len(INPUTS))] = Field(
        description="The tensor user, and item or k."
    )
    outputs: list[Any] | None = Field(default=None, description="Ignored: the response has all outputs.")
    parameters: dict[str, Any] | None = Field(default=None, description="Ignored; some clients send it.")

    @model_validator(mode="after")
    def _check_inputs(self) -> "InferenceRequest":
        names = [tensor.name for tensor in self.inputs]
        if "user" not in names or len(set(names)) < len(names) or {"item", "k"} <= set(names):
            raise ValueError(f"inputs {', '.join(names)}; expected user, and item or k, each once")
        k = self.values("k")
        if k is not None and not (isinstance(k[0], int) and 1 <= k[0] <= MAX_K):
            raise ValueError(f"k is {k[0]!r}; expected 1 to {MAX_K}")
        return self

    def values(self, name: str) -> list[int | str] | None:
        """Return the values of an input; None if the request has none of this name."""
        return next((tensor.data for tensor in self.inputs if tensor.name == name), None)


class TensorMetadata(BaseModel):
    """Name, type and shape of an input or output."""

    name: str = Field(description="Name of the tensor.")
    datatype: DataType = Field(description="Type of its values.")
    shape: list[int] = Field(description="Lengths of the axes; -1: any length.")


class OutputTensor(TensorMetadata):
    """An output tensor."""

    data: list[Any] = Field(description="The values, row by row; null where the policy has no such number.")


class InferenceResponse(BaseModel):
    """The outputs of one request."""

    model_name: str = Field(description="Name of the model.")
    model_version: str = Field(description="Number of the version in the registry; 0 without a registry.")
    id: str | None = Field(default=None, description="The id of the request.")
    outputs: list[OutputTensor] = Field(
        description="item_id, rating, propensity [n, k] and event_id [n]; or rating, std, probability [n, m]."
    )


class ModelMetadata(BaseModel):
    """A description of the model."""

    name: str = Field(description="Name of the model.")
    versions: list[str] = Field(description="The serving version.")
    platform: str = Field(description="recpolicy.")
    inputs: list[TensorMetadata] = Field(description="The possible inputs.")
    outputs: list[TensorMetadata] = Field(description="The possible outputs.")


class ServerMetadata(BaseModel):
    """A description of the server."""

    name: str = Field(description="recpolicy.")
    version: str = Field(description="Version of the protocol.")
    extensions: list[str] = Field(description="Extensions of the protocol: none.")


class ServerLive(BaseModel):
    """The state of the process."""

    live: bool = Field(description="Always true.")


class ServerReady(BaseModel):
    """The state of the server."""

    ready: bool = Field(description="True if the server can answer.")
