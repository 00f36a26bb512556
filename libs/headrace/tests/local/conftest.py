# SPDX-License-Identifier: Apache-2.0
from headrace.local.pytest_servers import (  # noqa: F401, fixtures and a hook
    kafka_server,
    postgres_server,
    pytest_collection_finish,
    s3_server,
    server_dir,
    tool_cache,
)
