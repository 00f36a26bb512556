from headrace.inference.v1 import inference_events_pb2 as _inference_events_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoreClaimRequest(_message.Message):
    __slots__ = ("endpoint", "contents")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    contents: bytes
    def __init__(self, endpoint: _Optional[str] = ..., contents: _Optional[bytes] = ...) -> None: ...

class StoreClaimResponse(_message.Message):
    __slots__ = ("claim",)
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    claim: _inference_events_pb2.Claim
    def __init__(self, claim: _Optional[_Union[_inference_events_pb2.Claim, _Mapping]] = ...) -> None: ...

class GetClaimRequest(_message.Message):
    __slots__ = ("endpoint", "claim")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    claim: _inference_events_pb2.Claim
    def __init__(self, endpoint: _Optional[str] = ..., claim: _Optional[_Union[_inference_events_pb2.Claim, _Mapping]] = ...) -> None: ...

class GetClaimResponse(_message.Message):
    __slots__ = ("contents",)
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    contents: bytes
    def __init__(self, contents: _Optional[bytes] = ...) -> None: ...
