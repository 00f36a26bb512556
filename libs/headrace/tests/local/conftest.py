# SPDX-License-Identifier: Apache-2.0
from headrace.local.pytest_servers import (  # noqa: F401, fixtures
    kafka_server,
    server_dir,
    tool_cache,
)
