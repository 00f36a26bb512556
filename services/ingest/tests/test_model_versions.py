# SPDX-License-Identifier: Apache-2.0
"""What each model version was trained on, as the registry tells it."""

import pytest

from headrace.errors import Denied, NotFound, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1.registry_events_pb2 import ModelVersion
from headrace.trainer.v1.trainer_events_pb2 import TrainedModel
from headrace_ingest.adapters.grpc_model_versions import GrpcModelVersions
from headrace_ingest.domain.trained_versions import Training
from headrace_kit.testing import RefusingChannel

MANIFEST = {"seed": "1", "delta_version:flights": "12", "delta_version:weather": "?"}


class Registry:
    """A channel to one with three versions of a model, newest first, a page each."""

    def __init__(self, manifest=MANIFEST):
        self.asked, self._manifest = [], manifest

    def unary_unary(self, *_, **__):
        return self.answer

    unary_stream = stream_unary = stream_stream = unary_unary

    def answer(self, request, **_):
        number = int(request.page_token or 3)
        self.asked.append(number)
        trained = TrainedModel(trained_until_us=7, manifest=self._manifest)
        version = ModelVersion(model=request.model, version=number, trained=trained)
        following = str(number - 1) if number > 1 else ""
        return pb.ListVersionsResponse(versions=[version], next_page_token=following)


def test_version_tells_the_version_of_each_table_that_it_read():
    [newest, *_] = GrpcModelVersions(Registry()).trainings(["delay"], {})

    # A table's version that nobody can read may be an old one.
    assert Training("delay", 3, 7, {"flights": 12, "weather": -1}) == newest


def test_version_of_a_graph_tells_what_it_is_made_of():
    manifest = {"graph": "5e7", "component:models:/near/12": "a1", "component:models:/far/1": "b2"}
    [newest, *_] = GrpcModelVersions(Registry(manifest)).trainings(["delay"], {})

    assert (("far", 1), ("near", 12)) == newest.components


def test_versions_are_listed_no_further_than_to_one_that_was_seen():
    registry = Registry()
    found = list(GrpcModelVersions(registry).trainings(["delay"], {"delay": 2}))

    assert ([3], [3, 2]) == ([each.version for each in found], registry.asked)


def test_model_that_never_had_a_version_and_whose_recipe_is_taken_back_has_none():
    versions = GrpcModelVersions(RefusingChannel(NotFound("MODEL_UNKNOWN", model="delay")))

    assert [] == list(versions.trainings(["delay"], {}))


def test_who_erases_does_not_hear_that_the_token_of_this_service_is_unknown():
    versions = GrpcModelVersions(RefusingChannel(Denied("TOKEN_UNKNOWN")))

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        list(versions.trainings(["delay"], {}))
