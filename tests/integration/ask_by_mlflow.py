# SPDX-License-Identifier: Apache-2.0
"""What MLflow's client finds at an address: `python ask_by_mlflow.py URI MODEL FOLDER`, as JSON."""

import hashlib
import json
import sys
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

uri, name, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
client = mlflow.MlflowClient()


def refused(act):
    try:
        act()
    except MlflowException as err:
        return err.error_code
    return "done"


def problem(act):
    try:
        act()
    except MlflowException as err:
        return err.message
    return "done"


champion = client.get_model_version_by_alias(name, "champion")
fetched = Path(mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=folder))
model = client.get_registered_model(name)
found = {
    "models": [each.name for each in client.search_registered_models()],
    "aliases": model.aliases,
    "latest": [each.version for each in model.latest_versions],
    "versions": [each.version for each in client.search_model_versions(f"name='{name}'")],
    "champion": champion.version,
    "tags": champion.tags,
    "newest": [each.version for each in client.get_latest_versions(name)],
    "second": client.get_model_version(name, "2").status,
    "files": {
        str(file.relative_to(fetched)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in fetched.rglob("*")
        if file.is_file()
    },
    "unknown": refused(lambda: client.get_model_version(name, "99")),
    "no alias": refused(lambda: client.get_model_version_by_alias(name, "nobody")),
    "create": refused(lambda: client.create_registered_model("more")),
    "move": refused(lambda: client.set_registered_model_alias(name, "champion", "2")),
    "delete": refused(lambda: client.delete_model_version(name, "1")),
    "experiments": problem(client.search_experiments),
}
sys.stdout.write(json.dumps(found))
