# SPDX-License-Identifier: Apache-2.0
from headrace.ingest.v1 import datasets_pb2 as pb
from headrace.rpc import pages

NAMES = ["a", "b", "c"]


def list_datasets(request: pb.ListDatasetsRequest, *, timeout: float) -> pb.ListDatasetsResponse:
    """A server that gives one a page."""
    at = int(request.page_token or 0)
    answer = pb.ListDatasetsResponse(next_page_token=str(at + 1) if at + 1 < len(NAMES) else "")
    answer.datasets.add(name=NAMES[at])
    return answer


def test_pages_are_asked_for_to_the_last():
    found = pages(list_datasets, pb.ListDatasetsRequest(), timeout_s=1.0)
    assert NAMES == [each.name for page in found for each in page.datasets]
