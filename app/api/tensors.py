"""Tensors of the Open Inference Protocol on the wire: as JSON, or as bytes behind the JSON.

Bytes (the ``binary_tensor_data`` extension): numbers little-endian and close together, each string after
its length in four bytes. The header ``Inference-Header-Content-Length`` says where the JSON ends.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from app.errors import InputError

INPUT = "text"
DATATYPES = {"intent": "BYTES", "confidence": "FP32", "in_scope": "BOOL", "scores": "FP32"}
"""Of the outputs, in the order in which they are sent."""

EXAMPLE = {
    "inputs": [
        {"name": INPUT, "shape": [1], "datatype": "BYTES", "data": ["where is my order 4711?"]}
    ]
}
"""A request for the documentation."""

Parameters = Annotated[dict[StrictStr, Any], Field(max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class InferInput(_Part):
    """The messages: a tensor `text` of BYTES, of shape `[n]` or `[n, 1]`."""

    name: StrictStr = Field(examples=[INPUT])
    datatype: StrictStr = Field(examples=["BYTES"])
    shape: list[Annotated[int, Field(ge=0, le=1 << 20)]] = Field(
        min_length=1, max_length=2, examples=[[1]]
    )
    data: list[Any] | None = Field(None, examples=[["where is my order 4711?"]])
    parameters: Parameters = {}


class InferOutput(_Part):
    """An output that is wanted; without any, all are sent."""

    name: StrictStr = Field(examples=["intent"])
    parameters: Parameters = {}


class InferRequest(_Part):
    """A request of the Open Inference Protocol."""

    id: Annotated[StrictStr, Field(max_length=256)] | None = Field(None, examples=["7"])
    parameters: Parameters = {}
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = Field([], max_length=16)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output: values in row-major order, and what is told beside them."""

    name: str
    shape: tuple[int, ...]
    values: list[Any]
    parameters: dict[str, Any]

    @property
    def datatype(self) -> str:
        return DATATYPES[self.name]

    def as_bytes(self) -> bytes:
        if self.datatype == "BYTES":
            words = [value.encode() for value in self.values]
            return b"".join(struct.pack("<I", len(word)) + word for word in words)
        if self.datatype == "BOOL":
            return bytes(self.values)
        return struct.pack(f"<{len(self.values)}f", *self.values)


def read_request(body: bytes, json_length: int | None) -> tuple[InferRequest, list[str]]:
    """A request and its messages. ``json_length`` is the header's, None for JSON alone.

    Raises :class:`InputError`, which quotes nothing of the request.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise InputError("Inference-Header-Content-Length is beyond the end of the body")
    head, rest = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    try:
        request = InferRequest.model_validate_json(head)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "/".join(str(part) for part in first["loc"][:4])
        raise InputError(f"#/{place}: {first['msg']}") from None
    # Before the work: what nobody can be told need not be computed.
    wanted = [one.name for one in request.outputs]
    known = DATATYPES.keys() >= set(wanted) and len(set(wanted)) == len(wanted)
    if not known or any("classification" in one.parameters for one in request.outputs):
        raise InputError(f"the outputs are {', '.join(DATATYPES)}, each once")
    return request, _texts(request.inputs[0], rest)


def _texts(given: InferInput, rest: bytes) -> list[str]:
    if given.name != INPUT or given.datatype != "BYTES":
        raise InputError(f"the one input is {INPUT!r}, of datatype BYTES")
    size = given.parameters.get("binary_data_size")
    if size is None:
        if rest:
            raise InputError("bytes follow the JSON, but no input has binary_data_size")
        texts = list(_flat(given.data or []))
    else:
        if given.data is not None or size != len(rest):
            raise InputError("binary_data_size is not the size of what follows the JSON")
        texts = list(_strings(rest))
    if len(given.shape) == 2 and given.shape[1] != 1:
        raise InputError("the shape of the input is [n] or [n, 1]")
    if len(texts) != math.prod(given.shape) or not texts:
        raise InputError("the input holds another number of messages than its shape says, or none")
    return texts


def _flat(data: list[Any]) -> Iterator[str]:
    for value in data:
        inner = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(inner, str):
            raise InputError("the data of the input must be strings")
        yield inner


def _strings(content: bytes) -> Iterator[str]:
    place = 0
    while place < len(content):
        if place + 4 > len(content):
            raise InputError("the bytes of the input end within a length")
        (length,) = struct.unpack_from("<I", content, place)
        place += 4 + length
        if place > len(content):
            raise InputError("the bytes of the input end within a message")
        try:
            yield content[place - length : place].decode()
        except UnicodeDecodeError:
            raise InputError("the messages must be UTF-8") from None


def write_response(
    request: InferRequest, head: dict[str, Any], tensors: list[Tensor]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where bytes follow."""
    by_name = {tensor.name: tensor for tensor in tensors}
    everywhere = request.parameters.get("binary_data_output") is True
    wanted = request.outputs or [InferOutput(name=tensor.name) for tensor in tensors]
    outputs, tail = [], []
    for one in wanted:
        tensor = by_name[one.name]
        told: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        parameters = dict(tensor.parameters)
        if one.parameters.get("binary_data", everywhere) is True:
            tail.append(tensor.as_bytes())
            parameters["binary_data_size"] = len(tail[-1])
        else:
            told["data"] = tensor.values
        outputs.append(told | ({"parameters": parameters} if parameters else {}))
    body = json.dumps(head | {"outputs": outputs}, ensure_ascii=False).encode()
    return body + b"".join(tail), len(body) if tail else None
