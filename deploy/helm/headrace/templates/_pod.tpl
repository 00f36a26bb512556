{{/* What every pod of the chart is: Pod Security "restricted", and nothing of the cluster. */}}
{{- define "headrace.podSecurity" -}}
automountServiceAccountToken: false
# Variables of other Services, such as FEATURE_STORE_PORT, would be taken for misspelt settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "headrace.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* `root`, `name`: the pod of a service. */}}
{{- define "headrace.pod" -}}
{{- $fact := get (fromYaml (include "headrace.facts" .root)) .name -}}
{{- $own := get .root.Values.services .name -}}
{{- $signers := ternary .root.Values.signers.existingConfigMap "" (hasKey $fact "signers") -}}
{{- $authorities := ternary .root.Values.s3.authoritiesConfigMap "" $fact.objects -}}
{{ include "headrace.podSecurity" .root }}
terminationGracePeriodSeconds: 60
{{- if or (gt (int ($own.replicas | default 1)) 1) ($own.autoscaling | default dict).endpoints }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "headrace.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
{{- end }}
containers:
  - name: {{ .name }}
    image: {{ include "headrace.image" . }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [python, -m, headrace_{{ .name }}]
    env:
      {{- include "headrace.environment" . | nindent 6 }}
    ports:
      - {name: grpc, containerPort: {{ $fact.grpc }}}
      - {name: http, containerPort: {{ $fact.http }}}
      {{- with $fact.rest }}
      - {name: rest, containerPort: {{ . }}}
      {{- end }}
    startupProbe:
      httpGet: {path: /health/live, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 60
    livenessProbe:
      httpGet: {path: /health/live, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      httpGet: {path: /health/ready, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 2
    lifecycle:
      # Endpoints go out of use some seconds after a pod is told to end.
      preStop: {sleep: {seconds: 5}}
    resources:
      {{- toYaml $own.resources | nindent 6 }}
    {{- include "headrace.containerSecurity" . | nindent 4 }}
    volumeMounts:
      - {name: data, mountPath: /data}
      - {name: tmp, mountPath: /tmp}
      # A folder, no single file: that would never see a change of the secret.
      - {name: tokens, mountPath: /run/headrace, readOnly: true}
      {{- if $signers }}
      - {name: signers, mountPath: /run/signers, readOnly: true}
      {{- end }}
      {{- if $authorities }}
      - {name: authorities, mountPath: /run/authorities, readOnly: true}
      {{- end }}
volumes:
  - name: tokens
    secret:
      secretName: {{ include "headrace.tokens" .root }}
      defaultMode: 0440
      items: [{key: tokens.json, path: tokens.json}]
  {{- with $signers }}
  - name: signers
    configMap:
      name: {{ . }}
      items: [{key: signers.pem, path: signers.pem}]
  {{- end }}
  {{- with $authorities }}
  - name: authorities
    configMap:
      name: {{ . }}
      items: [{key: authorities.pem, path: authorities.pem}]
  {{- end }}
  - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
{{- if not $fact.state }}
  # Nothing that must outlive the pod: cached models, the files of a run in work.
  - {name: data, emptyDir: {sizeLimit: 4Gi}}
{{- end }}
{{- end -}}
