{{/* What a service is, which no installation may choose: its doors, its peers (among them itself where its
     replicas ask each other), its stores. */}}
{{- define "headrace.facts" -}}
ingest: {grpc: 7101, http: 7201, peers: [registry], database: true, objects: true, state: false}
feature: {grpc: 7102, http: 7202, peers: [feature], database: false, objects: true, state: true}
trainer: {grpc: 7103, http: 7203, peers: [feature, registry], database: true, objects: false, state: false}
registry: {grpc: 7104, http: 7204, rest: 7304, signers: true, peers: [], database: true, objects: true, state: false}
inference: {grpc: 8001, http: 7205, rest: 8000, peers: [feature, registry], database: false, objects: true, state: false}
monitor: {grpc: 7106, http: 7206, peers: [], database: false, objects: false, state: true}
{{- end -}}

{{/* Short enough that the names of a StatefulSet's pods and revisions stay below 64 characters. */}}
{{- define "headrace.fullname" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "headrace.kafka" -}}
{{ required "kafka.bootstrap is required: HOST:PORT of your Kafka" .Values.kafka.bootstrap }}
{{- end -}}

{{- define "headrace.postgres" -}}
{{ required "postgres.address is required: HOST:PORT of your PostgreSQL" .Values.postgres.address }}
{{- end -}}

{{- define "headrace.s3" -}}
{{ required "s3.endpoint is required: the URI of your S3 server" .Values.s3.endpoint }}
{{- end -}}

{{- define "headrace.tokens" -}}
{{ required "tokens.existingSecret is required: a secret with the keys tokens.json, token and peer-token" .Values.tokens.existingSecret }}
{{- end -}}

{{/* `root`, `name`: the image of a service, by digest when there is one. */}}
{{- define "headrace.image" -}}
{{- $image := .root.Values.image -}}
{{- $registry := required "image.registry is required: where the images headrace-SERVICE are" $image.registry -}}
{{- $digest := (get .root.Values.services .name).digest -}}
{{- $version := ternary (printf "@%s" $digest) (printf ":%s" ($image.tag | default .root.Chart.AppVersion)) (ne $digest "") -}}
{{ printf "%s/headrace-%s%s" ($registry | trimSuffix "/") .name $version }}
{{- end -}}

{{/* `root`, `name`: of a service that may have several replicas, something. */}}
{{- define "headrace.several" -}}
{{- $own := get .root.Values.services .name -}}
{{- if or (gt (int ($own.replicas | default 1)) 1) ($own.autoscaling | default dict).endpoints -}}
several
{{- end -}}
{{- end -}}

{{/* `root`, `name`: where callers inside the cluster reach a service: of several replicas each by its own address,
     so that a gRPC client (`round_robin`, as ours) has a connection to every one. */}}
{{- define "headrace.host" -}}
{{ include "headrace.fullname" .root }}-{{ .name }}{{ if include "headrace.several" . }}-headless{{ end }}
{{- end -}}

{{/* `root`, `name`: the settings of a service that are no secrets, as a map. */}}
{{- define "headrace.settings" -}}
{{- $fact := get (fromYaml (include "headrace.facts" .root)) .name -}}
{{- $root := .root -}}
{{- $prefix := upper .name -}}
{{- $postgres := .root.Values.postgres -}}
{{ $prefix }}_KAFKA_BOOTSTRAP: {{ include "headrace.kafka" .root | quote }}
{{ $prefix }}_GRPC_HOST: 0.0.0.0
{{ $prefix }}_GRPC_PORT: {{ $fact.grpc | quote }}
{{ $prefix }}_HTTP_HOST: 0.0.0.0
{{ $prefix }}_HTTP_PORT: {{ $fact.http | quote }}
{{- with $fact.rest }}
{{ $prefix }}_REST_PORT: {{ . | quote }}
{{- end }}
{{ $prefix }}_INSECURE: "true"
{{ $prefix }}_TOKENS_FILE: /run/headrace/tokens.json
{{- if and $fact.signers .root.Values.signers.existingConfigMap }}
{{ $prefix }}_TRUSTED_SIGNERS_FILE: /run/signers/signers.pem
{{- end }}
{{ $prefix }}_DATA_DIR: /data
{{- range without $fact.peers .name }}
{{ $prefix }}_{{ upper . }}_ADDRESS: {{ printf "%s:%v" (include "headrace.host" (dict "root" $root "name" .)) (get (fromYaml (include "headrace.facts" $root)) .).grpc | quote }}
{{- end }}
{{- if $fact.database }}
{{ $prefix }}_DATABASE_URI: {{ printf "postgresql://%s@%s/%s" $postgres.user (include "headrace.postgres" .root) $postgres.database | quote }}
{{- end }}
{{- if $fact.objects }}
{{ $prefix }}_OBJECT_STORE_URI: {{ required "s3.uri is required: s3://BUCKET/PREFIX" .root.Values.s3.uri | quote }}
{{ $prefix }}_S3_ENDPOINT: {{ include "headrace.s3" .root | quote }}
{{ $prefix }}_S3_REGION: {{ .root.Values.s3.region | quote }}
{{- if .root.Values.s3.authoritiesConfigMap }}
SSL_CERT_FILE: /run/authorities/authorities.pem
{{- end }}
{{- end }}
{{- end -}}

{{/* `root`, `name`: the list of environment variables: settings, the user's over ours, then secrets. */}}
{{- define "headrace.environment" -}}
{{- $fact := get (fromYaml (include "headrace.facts" .root)) .name -}}
{{- $prefix := upper .name -}}
{{- $settings := fromYaml (include "headrace.settings" .) -}}
{{- if has .name $fact.peers }}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: {{ $prefix }}_PEER_ADDRESS, value: "$(POD_IP):{{ $fact.grpc }}"}
{{- end }}
{{- range $key, $value := merge (deepCopy (get .root.Values.services .name).settings) $settings }}
- {name: {{ $key }}, value: {{ $value | quote }}}
{{- end }}
{{- with .root.Values.traces.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- if $fact.peers }}
{{- $key := ternary "peer-token" "token" (has .name $fact.peers) }}
- {name: {{ $prefix }}_TOKEN, valueFrom: {secretKeyRef: {name: {{ include "headrace.tokens" .root }}, key: {{ $key }}}}}
{{- end }}
{{- if $fact.database }}
{{- $secret := required "postgres.existingSecret is required: a secret with the key password" .root.Values.postgres.existingSecret }}
- {name: {{ $prefix }}_DATABASE_PASSWORD, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: password}}}
{{- end }}
{{- if $fact.objects }}
{{- $secret := required "s3.existingSecret is required: a secret with the keys access-key and secret-key" .root.Values.s3.existingSecret }}
- {name: {{ $prefix }}_S3_ACCESS_KEY, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: access-key}}}
- {name: {{ $prefix }}_S3_SECRET_KEY, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: secret-key}}}
{{- end }}
{{- end -}}

{{/* The egress that every pod needs: names, and Kafka at each port of its addresses. */}}
{{- define "headrace.toKafka" -}}
{{- $ports := list -}}
{{- range splitList "," (include "headrace.kafka" .) -}}
{{- $ports = append $ports (splitList ":" . | last | int) -}}
{{- end -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
  to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
- ports:
    {{- range $ports | uniq }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.kafka }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
