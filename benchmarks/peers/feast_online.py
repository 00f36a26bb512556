# SPDX-License-Identifier: Apache-2.0
"""Feast: 10 features of 10,000 users in its SQLite online store, served by its own gRPC server.

Arguments: port, folder. Writes the requests for 1 and 100 users to the folder as the load generator
reads them, then says "ready" and serves until it is stopped. Run by the peer's own Python.
"""

import random
import struct
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.infra.contrib.grpc_server import get_grpc_server
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.types import Float32

port, folder = int(sys.argv[1]), Path(sys.argv[2])
ENTITIES, REQUESTS = 10_000, 5_000
NAMES = [f"feature_{number}" for number in range(10)]

folder.mkdir()
chance = random.Random(7)  # noqa: S311, no secret
now = datetime.now(tz=UTC)
rows = pd.DataFrame(
    {"user": [f"user-{number}" for number in range(ENTITIES)], "event_timestamp": now}
    | {name: [chance.random() for _ in range(ENTITIES)] for name in NAMES}
)
rows.to_parquet(folder / "rows.parquet")
store = FeatureStore(
    config=RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
)
user = Entity(name="user", join_keys=["user"])
view = FeatureView(
    name="user",
    entities=[user],
    ttl=timedelta(days=1),
    schema=[Field(name=name, dtype=Float32) for name in NAMES],
    source=FileSource(path=str(folder / "rows.parquet"), timestamp_field="event_timestamp"),
)
store.apply([user, view])
store.write_to_online_store("user", rows)


def request(count: int) -> bytes:
    made = GetOnlineFeaturesRequest()
    made.features.val.extend(f"user:{name}" for name in NAMES)
    users = made.entities["user"].val
    for _ in range(count):
        users.add(string_val=f"user-{chance.randrange(ENTITIES)}")
    return made.SerializeToString()


for count in (1, 100):
    messages = [request(count) for _ in range(REQUESTS)]
    framed = b"".join(struct.pack("<I", len(each)) + each for each in messages)
    (folder / f"reads-{count}").write_bytes(framed)

server = get_grpc_server(f"127.0.0.1:{port}", store, max_workers=10, registry_ttl_sec=60)
server.start()
sys.stdout.write("ready\n")
sys.stdout.flush()
server.wait_for_termination()
