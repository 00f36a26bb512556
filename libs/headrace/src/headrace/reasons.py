# SPDX-License-Identifier: Apache-2.0
"""Generated from contracts/errors.yaml by contracts/generate.py: the closed list."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One reason: branch of the tree, sentence, next step."""

    kind: str
    means: str
    next: str
    records: bool = False


REASONS: dict[str, Reason] = {
    "EMPTY": Reason("Invalid", "The record has no value.", "Send a JSON object.", records=True),
    "TOMBSTONE": Reason(
        "Invalid", "A tombstone came where none is allowed.", "Send a JSON object.", records=True
    ),
    "KEY_MISSING": Reason(
        "Invalid",
        "The record, or a row of the request, has no key.",
        "Set the key to the contract's key column; in a request name the entity of each row.",
        records=True,
    ),
    "KEY_MISMATCH": Reason(
        "Invalid",
        "The key differs from the key column in the value.",
        "Make both equal.",
        records=True,
    ),
    "DECODE_ERROR": Reason(
        "Invalid",
        "The bytes cannot be decoded.",
        "Send UTF-8 JSON, or the protobuf message where one is taken.",
        records=True,
    ),
    "BAD_TYPE": Reason(
        "Invalid",
        "A column has another type than the contract says.",
        "Send the contract's type.",
        records=True,
    ),
    "SCHEMA_UNKNOWN": Reason(
        "Invalid",
        "The contract named in ce_dataschema is not known.",
        "Apply the contract first.",
        records=True,
    ),
    "SCHEMA_INCOMPATIBLE": Reason(
        "Invalid",
        "The record was written for another contract version.",
        "Publish with the applied version.",
        records=True,
    ),
    "MISSING_FIELD": Reason(
        "Invalid", "A required column is absent or null.", "Send the column.", records=True
    ),
    "OUT_OF_RANGE": Reason(
        "Invalid",
        "A value is outside the declared range or list.",
        "Mend the value or the contract.",
        records=True,
    ),
    "NONFINITE": Reason(
        "Invalid", "A number is not finite.", "Send a finite number or null.", records=True
    ),
    "UNKNOWN_ENTITY": Reason(
        "Invalid",
        "The key is not among the entities that the contract lists.",
        "Mend the key or add the entity to one_of of the key column.",
        records=True,
    ),
    "TRANSFORM_ERROR": Reason(
        "Invalid",
        "A derived column that is required could not be computed.",
        "Look at the columns that it reads or make it optional.",
        records=True,
    ),
    "RULE_BROKEN": Reason(
        "Invalid",
        "The record breaks a row rule of its contract.",
        "Mend the record or the rule that is named.",
        records=True,
    ),
    "BAD_ID": Reason(
        "Invalid",
        "An id is too long or holds control, bidi or path characters.",
        "Use plain ids up to 128 characters, of requests 256; docs/application.md says which.",
        records=True,
    ),
    "BAD_TIMESTAMP": Reason(
        "Invalid",
        "A time is absent or outside the years that can be true.",
        "Send microseconds since the epoch or RFC 3339.",
        records=True,
    ),
    "DUPLICATE_CONFLICT": Reason(
        "Conflict",
        "The event id was used before with another payload.",
        "Give each event its own id.",
        records=True,
    ),
    "TOO_LARGE": Reason(
        "Invalid",
        "The record is larger than the cap.",
        "Publish records of at most 1 MiB; of what a claim names, INFERENCE_CLAIM_BYTES_MAX.",
        records=True,
    ),
    "ENTITY_ERASED": Reason(
        "Invalid",
        "The record speaks of an entity that was erased.",
        "Nothing; what happened before its erasure stays erased.",
        records=True,
    ),
    "POISON_CRASH": Reason(
        "Invalid",
        "The record ended the process three times.",
        "Report it; the record is kept as a pointer.",
        records=True,
    ),
    "TOKEN_UNKNOWN": Reason(
        "Denied",
        "The call shows no token, or none that is known.",
        "Show one: headrace connect --token-file FILE or Client(token=...).",
    ),
    "ACTION_FORBIDDEN": Reason(
        "Denied",
        "The caller is known and may not do this.",
        "Ask who keeps the tokens file for the permission (headrace tokens permit).",
    ),
    "ORIGIN_FORBIDDEN": Reason(
        "Denied",
        "A server on loopback answers to names of the loopback and to no page of another origin.",
        "Call it by 127.0.0.1 or localhost.",
    ),
    "PATH_UNKNOWN": Reason(
        "NotFound",
        "Nothing is served under this path.",
        "See the paths in the README of the service.",
    ),
    "BAD_REQUEST": Reason(
        "Invalid",
        "A field of the request is missing or malformed.",
        "Mend what is named; the problem says how.",
    ),
    "AMBIGUOUS": Reason(
        "Invalid", "More than one name begins with these digits.", "Give more of them."
    ),
    "BAD_NAME": Reason(
        "Invalid",
        "A name is outside [a-z0-9][a-z0-9-.]{0,127}, or names no version where one is needed.",
        "Use a plain lower-case name, for a version NAME/VERSION or NAME@ALIAS.",
    ),
    "BAD_DEFINITION": Reason(
        "Invalid",
        "A definition of the application is wrong.",
        "Mend what is named; docs/application.md tells every key.",
    ),
    "CONTRACT_INCOMPATIBLE": Reason(
        "Conflict",
        "The contract would refuse records that the applied version took.",
        "Undo the changes that are listed or give the new contract a stream of its own.",
    ),
    "BAD_SETTING": Reason(
        "Invalid",
        "A setting is unknown or wrong.",
        "Mend the setting that is named; the settings table is in the service's README.",
    ),
    "BATCH_TOO_LARGE": Reason(
        "Busy", "The request holds or needs more rows than the cap.", "Send fewer rows at a time."
    ),
    "TOO_MANY_INPUTS": Reason(
        "Busy",
        "The request holds more inputs than the cap.",
        "Send only the inputs that ModelMetadata names.",
    ),
    "MESSAGE_TOO_LARGE": Reason(
        "Busy",
        "The message holds more bytes or values than the cap.",
        "Send less at a time, and tensors as binary.",
    ),
    "TENSOR_NAME": Reason(
        "Invalid",
        "An input or output is missing, unknown or named twice.",
        "Ask ModelMetadata for the names.",
    ),
    "TENSOR_DTYPE": Reason(
        "Invalid",
        "An input has another data type than the model takes.",
        "Ask ModelMetadata for the inputs.",
    ),
    "TENSOR_SHAPE": Reason(
        "Invalid",
        "An input has another rank, shape or number of rows than is taken.",
        "Ask ModelMetadata for the inputs; send one row at least, as many in each input.",
    ),
    "TENSOR_SIZE": Reason(
        "Invalid",
        "The bytes of an input do not match its shape.",
        "Send row-major little-endian values.",
    ),
    "TENSOR_CONTENT": Reason(
        "Invalid",
        "The contents of a tensor cannot be read or told.",
        "Mend what is named; the problem says how.",
    ),
    "TENSOR_NONFINITE": Reason(
        "Invalid",
        "An input holds NaN or infinity that is not taken, or of which the model made no number.",
        "Send finite values; NaN means absent to a model that was trained so.",
    ),
    "UNSUPPORTED": Reason(
        "Invalid",
        "This part of the protocol is not offered here.",
        "See the problem that is named.",
    ),
    "MODEL_UNKNOWN": Reason(
        "NotFound",
        "No endpoint or model has this name, or the endpoint does not serve this version.",
        "Ask headrace models list for the names, RepositoryIndex for what is served.",
    ),
    "MODEL_NOT_READY": Reason(
        "Conflict",
        "The endpoint has no version that may serve.",
        "Mend the cause that is told or train a version that passes its gate (headrace train).",
    ),
    "MODEL_TOO_LARGE": Reason(
        "Conflict",
        "The model alone needs more memory than all models may take.",
        "Raise INFERENCE_MODEL_MEMORY_BYTES_MAX or serve a smaller model.",
    ),
    "ROLLOUT_DECIDES": Reason(
        "Conflict",
        "The registry's rollout decides which versions an endpoint serves.",
        "Change the rollout or take the endpoint back.",
    ),
    "ENDPOINT_STOPPED": Reason(
        "Conflict",
        "The endpoint was stopped by hand.",
        "Ask headrace rollouts list why; headrace rollouts start ENDPOINT lets it answer again.",
    ),
    "MODEL_ERROR": Reason(
        "Bug",
        "The model runtime failed on this request.",
        "Mend its values, as an index out of range; if others fail too roll back, and see the log.",
    ),
    "MODEL_NONFINITE": Reason(
        "Bug",
        "The model answered NaN, or an infinite score.",
        "Roll back and look at the version's evidence.",
    ),
    "FEATURE_UNKNOWN": Reason(
        "NotFound", "No applied view has this feature.", "Apply the view or mend the name."
    ),
    "STREAM_UNKNOWN": Reason(
        "NotFound", "No applied contract has this name.", "Apply the contract or mend the name."
    ),
    "COLUMN_UNKNOWN": Reason(
        "NotFound",
        "No applied contract has a column of this name.",
        "Ask headrace search for the columns or mend the name.",
    ),
    "STREAM_EMPTY": Reason(
        "NotFound",
        "The stream has no archived record yet.",
        "Publish some and ask headrace streams.",
    ),
    "VIEW_EMPTY": Reason(
        "NotFound",
        "No rows of the view as it is defined now were materialised.",
        "Ask headrace materialize VIEW; it tells which stream the view waits for.",
    ),
    "VIEW_UNKNOWN": Reason(
        "NotFound", "No applied view has this name.", "Apply the view or mend the name."
    ),
    "DEFINITION_UNKNOWN": Reason(
        "NotFound",
        "No applied definition of this kind has this name.",
        "Apply it or mend the name.",
    ),
    "DEFINITION_AWAITED": Reason(
        "Unavailable",
        "The definition that a request or a record names has not come yet.",
        "Wait; ingest looks 0.5 s for a contract, trainer 30 s for a recipe.",
    ),
    "DEAD_LETTER_UNKNOWN": Reason(
        "NotFound",
        "No dead letter is kept under this id.",
        "Ask headrace dead-letters list for the ids.",
    ),
    "RECORD_LOST": Reason(
        "NotFound",
        "The record is no longer kept and its dead letter holds only a pointer.",
        "Publish it again.",
    ),
    "LABEL_UNKNOWN": Reason(
        "NotFound", "No applied label definition has this name.", "Apply it or mend the name."
    ),
    "TASK_UNKNOWN": Reason(
        "NotFound", "No label task has this id.", "Ask headrace labels tasks for the ids."
    ),
    "NO_TASK": Reason(
        "NotFound", "No task of this label waits for this labeller.", "Ask again later."
    ),
    "ARCHIVE_VERSION_UNKNOWN": Reason(
        "NotFound",
        "The archive of a stream has no such version, or not any more.",
        "Ask without a manifest.",
    ),
    "RUN_UNKNOWN": Reason(
        "NotFound", "No training run has this id.", "Ask headrace runs or ListRuns."
    ),
    "SOURCE_UNKNOWN": Reason(
        "NotFound",
        "No version came of anything of this name.",
        "Mend the name or the kind, or name the endpoint of a prediction (--endpoint ENDPOINT).",
    ),
    "VERSION_UNKNOWN": Reason(
        "NotFound", "The model has no such version.", "Ask headrace models show or ListVersions."
    ),
    "PREDICTION_UNKNOWN": Reason(
        "NotFound",
        "The newest records of the endpoint's prediction log tell of no such prediction.",
        "Look at its endpoint; the log is kept for as long as its topic says.",
    ),
    "ALIAS_UNKNOWN": Reason(
        "NotFound", "The model has no such alias.", "Ask headrace models show or ListAliases."
    ),
    "DATASET_UNKNOWN": Reason(
        "NotFound", "No dataset has this name, number or tag.", "Ask headrace datasets list."
    ),
    "ARTIFACT_UNKNOWN": Reason("NotFound", "No artifact has this digest.", "Upload it first."),
    "CLAIM_UNKNOWN": Reason(
        "NotFound",
        "Nothing of this digest and size is kept for the endpoint, or not any more.",
        "Store it (StoreClaim) and publish its claim within a week.",
    ),
    "ARTIFACT_NOT_UPLOADED": Reason(
        "Conflict",
        "No artifact of this digest was uploaded.",
        "Upload it first (headrace models register does both).",
    ),
    "ALIAS_MOVED": Reason(
        "Conflict",
        "The alias was moved by another since it was read.",
        "Read the aliases (headrace models show) and decide again.",
    ),
    "GATE_NOT_PASSED": Reason(
        "Conflict",
        "The version has not passed its gate with this digest.",
        "Ask headrace models show NAME/VERSION; headrace models approve or sign may open it.",
    ),
    "TENSORS_DIFFER": Reason(
        "Conflict",
        "The version takes or gives other tensors than the champion whose callers it would answer.",
        "Give it a model and endpoint of its own, or headrace promote it when callers can change.",
    ),
    "GATE_SETTLED": Reason(
        "Conflict",
        "Nobody is asked about the version, or not yet.",
        "Sign it first if it awaits that; register another if it failed or was taken back.",
    ),
    "VERSION_NEEDED": Reason(
        "Conflict",
        "An alias or an endpoint points to the version.",
        "Move the alias (headrace promote) or end the canary (headrace rollouts end).",
    ),
    "TAG_MOVED": Reason(
        "Conflict",
        "The tag was moved by another since it was read.",
        "Read the dataset's tags (headrace datasets show) and decide again.",
    ),
    "DATASET_TAGGED": Reason("Conflict", "A tag points to the dataset.", "Move the tag first."),
    "DATASET_DELETED": Reason(
        "Conflict", "The dataset was deleted.", "Choose another one of headrace datasets list."
    ),
    "VERSION_EXPIRED": Reason(
        "Conflict",
        "The table no longer holds this version.",
        "Choose a newer version, or a dataset: those are kept.",
    ),
    "ROLLOUT_MOVED": Reason(
        "Conflict", "The roll-out changed since it was read.", "Read the roll-out and decide again."
    ),
    "GENERATION_REUSED": Reason(
        "Conflict",
        "The registry went back to an older generation, or to another state of one.",
        "Its database was put back to an old copy: docs/runbooks/restored-registry.md.",
    ),
    "UPLOAD_MOVED": Reason(
        "Conflict",
        "What came of the upload before does not end at this offset.",
        "Ask BeginUpload where it stands and send the rest.",
    ),
    "LEASE_LOST": Reason(
        "Conflict", "The labeller does not hold the task any more.", "Claim a task again."
    ),
    "TASK_SETTLED": Reason(
        "Conflict", "The task has its label or is disputed for good.", "Claim another task."
    ),
    "TASK_ANSWERED": Reason(
        "Conflict", "The labeller has answered the task otherwise.", "Claim another task."
    ),
    "DEFINITION_NEEDED": Reason(
        "Conflict",
        "Other definitions need this one.",
        "Take back first what is named (headrace definitions retract).",
    ),
    "TOO_MANY_DEFINITIONS": Reason(
        "Conflict",
        "More definitions would be applied than the registry holds.",
        "Take back those that nobody needs (headrace definitions retract).",
    ),
    "DEFINITIONS_CHANGED": Reason(
        "Conflict",
        "A view or its stream is not what the manifest was made with.",
        "Apply that definition again or ask without the manifest.",
    ),
    "REQUEST_REUSED": Reason(
        "Conflict",
        "The request id was used before with other content.",
        "Give each request its own id.",
    ),
    "RUN_CONFLICT": Reason(
        "Conflict",
        "The run id was registered before with other content.",
        "Train again under a new id.",
    ),
    "TOO_MANY_DEAD_LETTERS": Reason(
        "Conflict",
        "More of the last records of a stream would be set aside than its share allows.",
        "Apply a contract that takes them, or restart ingest with INGEST_DEAD_LETTERS_SHARE_MAX.",
    ),
    "TOO_FEW_ROWS": Reason(
        "Conflict",
        "The training set has too few rows or only one class.",
        "Look at what there is, and at what was left out and why; train later or widen the recipe.",
    ),
    "RUN_CANCELLED": Reason(
        "Conflict", "The training run was cancelled.", "Train again under a new id."
    ),
    "RUN_ENDED": Reason("Conflict", "The training run has ended.", "Ask headrace runs how."),
    "TRAINING_FAILED": Reason(
        "Bug", "The training process ended with an error.", "See the trainer's log of that run."
    ),
    "ERASURE_UNREADABLE": Reason(
        "Corrupt",
        "What was noted of the erasure cannot be read.",
        "Put its begun.json back from a backup, or erase the entity again under a new request id.",
    ),
    "DIGEST_MISMATCH": Reason("Corrupt", "The bytes do not hash to the digest.", "Upload again."),
    "FORMAT": Reason("Invalid", "The artifact is not of the format that it says.", "Export ONNX."),
    "PICKLE": Reason(
        "Invalid", "The artifact is a pickle, which runs code when read.", "Export ONNX."
    ),
    "EXTERNAL_DATA": Reason(
        "Invalid", "The ONNX file points to other files.", "Export with the weights inside."
    ),
    "OPSET": Reason(
        "Invalid",
        "The ONNX file asks for operators or functions that are not taken.",
        "Export with operators of ai.onnx and ai.onnx.ml alone, of a version that the runtime has.",
    ),
    "VALIDATION_LIMIT": Reason(
        "Invalid",
        "The file needed more memory or time than it may or ended its check.",
        "Export a smaller or plainer model.",
    ),
    "SIGNATURE_INVALID": Reason(
        "Invalid",
        "The bundle is no trusted signature of this version.",
        "Sign the version again (headrace models sign) with a key that the registry trusts.",
    ),
    "METADATA_TOO_LARGE": Reason(
        "Busy",
        "The metrics of a version, or its tags and card, are more than the cap.",
        "Say less or link to more.",
    ),
    "ARTIFACT_TOO_LARGE": Reason(
        "Busy",
        "The artifact is larger than the cap.",
        "Send a smaller model, or raise REGISTRY_ARTIFACT_BYTES_MAX and INFERENCE_MODEL_BYTES_MAX.",
    ),
    "STATE_FULL": Reason(
        "Busy", "The embedded store has reached its cap.", "Raise the cap in the settings."
    ),
    "DISK_FULL": Reason(
        "Busy",
        "The disk that holds a service's state has no room.",
        "Make room; it goes on by itself.",
    ),
    "MODEL_MEMORY_FULL": Reason(
        "Busy",
        "All models in memory are at work and leave no room for another.",
        "Try again after the delay that is given; allow models more memory when it lasts.",
    ),
    "DEVICE_MEMORY": Reason(
        "Busy",
        "The device that the model runs on has too little memory for this request.",
        "Send fewer rows, or raise the bound (INFERENCE_MODEL_DEVICE_MEMORY_BYTES_MAX).",
    ),
    "CLAIMS_FULL": Reason(
        "Busy",
        "What fits no record, of requests or answers, has no more room in the object store.",
        "Send less at a time or raise INFERENCE_CLAIMS_BYTES_MAX; what is old goes by itself.",
    ),
    "QUEUE_FULL": Reason(
        "Busy", "A bounded queue of ours is full.", "Try again after the delay that is given."
    ),
    "FILES_EXHAUSTED": Reason(
        "Busy",
        "The service may open no more files or connections.",
        "It goes on when some are closed; raise its limit (ulimit -n) when it lasts.",
    ),
    "BROKER_UNAVAILABLE": Reason(
        "Unavailable",
        "Kafka did not answer in time.",
        "Start it with headrace up or look at its log.",
    ),
    "DELIVERY_UNKNOWN": Reason(
        "Unavailable",
        "Kafka did not confirm the record in time; it may be stored.",
        "Send it again with the same id.",
    ),
    "TOPIC_MISSING": Reason(
        "Unavailable",
        "A topic of the contracts does not exist.",
        "Run headrace apply, or headrace down and up: docs/runbooks/missing-topics.md says which.",
    ),
    "TOPIC_MADE_AGAIN": Reason(
        "Unavailable",
        "A topic that the service holds as a table was deleted and made again.",
        "Nothing; the service starts again, and reads it from its beginning.",
    ),
    "OFFSET_LOST": Reason(
        "Unavailable",
        "Retention removed records that were not read yet.",
        "See docs/runbooks/lost-offsets.md.",
    ),
    "OBJECT_STORE_UNAVAILABLE": Reason(
        "Unavailable",
        "The object store did not answer in time, or did not do what was asked.",
        "Look at its address and log, and at what the problem says.",
    ),
    "ARCHIVE_MISSING": Reason(
        "Unavailable",
        "The archive of a stream that was read before is not there, and is not made anew.",
        "Put it back, or see docs/runbooks/lost-archive.md.",
    ),
    "TABLE_CONTENDED": Reason(
        "Unavailable",
        "Others changed the table each time that this was tried, an erasure for one.",
        "Try again in a moment; what was done stays done.",
    ),
    "OBJECT_STORE_UNSAFE": Reason(
        "Unavailable",
        "The object store does not honour conditional puts.",
        "Use one that does (versitygw).",
    ),
    "DATABASE_UNAVAILABLE": Reason(
        "Unavailable", "The database did not answer in time.", "Look at its address and log."
    ),
    "PROVIDER_UNAVAILABLE": Reason(
        "Unavailable",
        "ONNX Runtime cannot run models on what the settings say.",
        "Look at the service's log for what it lacks or set INFERENCE_MODEL_PROVIDERS=cpu.",
    ),
    "DEADLINE_UNMET": Reason(
        "Unavailable",
        "The answer cannot be there before the caller's deadline.",
        "Allow more time or ask when there is less load.",
    ),
    "STREAM_STALLED": Reason(
        "Unavailable",
        "The caller neither sent nor took anything for too long.",
        "Call again and keep the stream going.",
    ),
    "NOT_RUNNING": Reason(
        "Unavailable",
        "No platform runs on this data folder and none is connected.",
        "Start one with headrace up, or name one with headrace connect.",
    ),
    "DATA_FOLDER_UNUSABLE": Reason(
        "Unavailable",
        "The data folder cannot be read or written.",
        "Choose a folder that you may write and whose disk has room.",
    ),
    "SERVICE_UNAVAILABLE": Reason(
        "Unavailable",
        "A service did not answer in time, or denied the one that called it.",
        "Ask headrace status, and start what is down (headrace up) or look at its log.",
    ),
    "ERASURES_AWAITED": Reason(
        "Unavailable",
        "This worker does not know all erasures yet that the table was cleared of.",
        "Try again in a moment.",
    ),
    "RECORDS_BEHIND": Reason(
        "Unavailable",
        "The archive does not hold the records up to that time yet.",
        "Try again after the delay that is given.",
    ),
    "RESTORING": Reason(
        "Unavailable", "The state is being restored.", "Try again after the delay that is given."
    ),
    "FEATURES_STALE": Reason(
        "Conflict",
        "The features do not hold all that was published up to the bound.",
        "Allow more staleness or wait until the fold has caught up.",
    ),
    "PORT_TAKEN": Reason(
        "Unavailable", "A port is in use by another process.", "Stop it or set another port."
    ),
    "TOOL_MISSING": Reason(
        "Unavailable", "A program that is needed cannot be found or built.", "Run headrace doctor."
    ),
    "DOWNLOAD_FAILED": Reason(
        "Unavailable",
        "A file that is needed once could not be downloaded.",
        "Look at the network and its proxy settings, then start again.",
    ),
    "ALREADY_RUNNING": Reason(
        "Conflict",
        "A supervisor already runs on this data folder.",
        "Run headrace status or headrace down.",
    ),
    "START_FAILED": Reason(
        "Unavailable", "A process did not become ready in time.", "Read its log."
    ),
    "INTERNAL": Reason("Bug", "A bug.", "Report it with the log."),
}
