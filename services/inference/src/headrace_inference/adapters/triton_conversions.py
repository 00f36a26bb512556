# SPDX-License-Identifier: Apache-2.0
"""What Triton's extensions tell of an endpoint, made of its metadata and of what was counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.domain.serving import Tried
from headrace_inference.domain.statistics import Compute, Duration, VersionStatistics

BACKEND = "onnxruntime"
ROWS_APART = "rows_apart"
ROWS_APART_TOLD = {
    True: "yes: each row is a prediction, and those of several requests run together",
    False: "no: a request is one prediction; it has no rows, or answers them otherwise together",
    None: "not known: a request is one prediction; two rows could not be tried, for 5 s at most",
}


def model_config(metadata: oip.ModelMetadataResponse, *, rows_max: int) -> oip.ModelConfig:
    """With a batch the first dimension is left out of `dims`, as Triton does."""
    tensors = [*metadata.inputs, *metadata.outputs]
    batched = all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)
    config = oip.ModelConfig(
        name=metadata.name,
        platform=metadata.platform,
        backend=BACKEND,
        max_batch_size=rows_max if batched else 0,
        input=[oip.ModelInput(**_described(tensor, batched)) for tensor in metadata.inputs],
        output=[oip.ModelOutput(**_described(tensor, batched)) for tensor in metadata.outputs],
        instance_group=[
            oip.ModelInstanceGroup(
                name=metadata.name, kind=oip.ModelInstanceGroup.Kind.KIND_CPU, count=1
            )
        ],
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=False),
    )
    config.version_policy.specific.versions.extend(map(int, metadata.versions))
    return config


def tell_rows(config: oip.ModelConfig, tried: Tried) -> None:
    """Of a model that is asked by its own tensors."""
    config.parameters[ROWS_APART].string_value = ROWS_APART_TOLD[tried.rows_apart]
    if tried.rows_apart:
        tell_shared_runs(config)


def tell_shared_runs(config: oip.ModelConfig) -> None:
    """Rows of several requests run together; none waits for others, so no size is preferred."""
    config.dynamic_batching.SetInParent()


def model_statistics(endpoint: str, version: int, done: VersionStatistics) -> oip.ModelStatistics:
    statistics = oip.ModelStatistics(
        name=endpoint,
        version=str(version),
        last_inference=done.last_inference_us // 1_000,
        inference_count=done.rows,
        execution_count=done.executions,
        inference_stats=oip.InferStatistics(
            success=_duration(done.success),
            fail=_duration(done.fail),
            queue=_duration(done.queue),
            **_computed(done.compute),
        ),
    )
    for rows, compute in sorted(done.compute_by_batch_rows.items()):
        statistics.batch_stats.add(batch_size=rows, **_computed(compute))
    return statistics


def log_settings(level: str) -> oip.LogSettingsResponse:
    """The level in Triton's words; a level includes those above it."""
    shown = ("DEBUG", "INFO", "WARNING", "ERROR")
    begin = shown.index(level) if level in shown else len(shown)
    settings = {f"log_{name.lower()}": name in shown[begin:] for name in shown[1:]}
    response = oip.LogSettingsResponse()
    for name, on in settings.items():
        response.settings[name].bool_param = on
    response.settings["log_verbose_level"].uint32_param = int(begin == 0)
    return response


def trace_settings() -> oip.TraceSettingResponse:
    response = oip.TraceSettingResponse()
    response.settings["trace_level"].value.append("OFF")
    return response


def changed(current: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings that are asked to become other than they are."""
    for name, value in asked.items():
        if name not in current or (current[name].SerializeToString() != value.SerializeToString()):
            yield name


def _described(tensor: Any, batched: bool) -> dict[str, Any]:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{kind}",
        "dims": tensor.shape[1:] if batched else tensor.shape,
    }


def _computed(compute: Compute) -> dict[str, oip.StatisticDuration]:
    return {
        "compute_input": _duration(compute.input),
        "compute_infer": _duration(compute.infer),
        "compute_output": _duration(compute.output),
    }


def _duration(spent: Duration) -> oip.StatisticDuration:
    return oip.StatisticDuration(count=spent.count, ns=spent.ns)
