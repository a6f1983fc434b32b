{{/* The spec of a Ray cluster. Of a dict: root and component (cluster, serve or train). */}}
{{- define "fastserve.cluster" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := .root.Values -}}
{{- include "fastserve.checkApp" .root -}}
rayVersion: {{ $values.rayVersion | quote }}
{{- if $values.auth.enabled }}
authOptions:
  mode: token
  {{- with $values.auth.secretName }}
  secretName: {{ . }}
  {{- end }}
{{- end }}
enableInTreeAutoscaling: {{ $values.autoscaling.enabled }}
{{- if $values.autoscaling.enabled }}
autoscalerOptions:
  version: {{ $values.autoscaling.version }}
  idleTimeoutSeconds: {{ $values.autoscaling.idleTimeoutSeconds }}
  upscalingMode: {{ $values.autoscaling.upscalingMode }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  resources:
    limits: {{- toYaml $values.autoscaling.resources | nindent 6 }}
    requests: {{- toYaml $values.autoscaling.resources | nindent 6 }}
  securityContext: {{- toYaml $values.securityContext | nindent 4 }}
  env:
    - {name: HOME, value: /tmp}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- with $values.gcsFaultTolerance }}
{{- if .enabled }}
gcsFaultToleranceOptions:
  redisAddress: {{ include "fastserve.redisAddress" $root }}
  {{- with .redis.username }}
  redisUsername: {value: {{ . | quote }}}
  {{- end }}
  {{- if .redis.passwordSecret.name }}
  redisPassword:
    valueFrom:
      secretKeyRef: {{- toYaml .redis.passwordSecret | nindent 8 }}
  {{- end }}
  {{- with .externalStorageNamespace }}
  externalStorageNamespace: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
headGroupSpec:
  {{- $params := $values.head.rayStartParams }}
  {{- if kindIs "invalid" $params }}
  {{- $params = dict "num-cpus" "0" "num-gpus" "0" }}
  {{- end }}
  rayStartParams: {{- toYaml $params | nindent 4 }}
  {{- with $values.head.rayLabels }}
  labels: {{- toYaml . | nindent 4 }}
  {{- end }}
  template: {{- include "fastserve.pod" (dict "root" $root "group" $values.head "role" "head" "component" $component) | nindent 4 }}
{{- $groups := ternary (list $values.worker) $values.workers (kindIs "invalid" $values.workers) }}
workerGroupSpecs: {{ empty $groups | ternary "[]" "" }}
  {{- range $groups }}
  {{- if or (gt (int .minReplicas) (int .replicas)) (gt (int .replicas) (int .maxReplicas)) }}
  {{- fail (printf "workers %s: minReplicas %v <= replicas %v <= maxReplicas %v is not so" .name .minReplicas .replicas .maxReplicas) }}
  {{- end }}
  - groupName: {{ .name }}
    replicas: {{ .replicas }}
    minReplicas: {{ .minReplicas }}
    maxReplicas: {{ .maxReplicas }}
    rayStartParams: {{- toYaml (default dict .rayStartParams) | nindent 6 }}
    {{- with .rayLabels }}
    labels: {{- toYaml . | nindent 6 }}
    {{- end }}
    template: {{- include "fastserve.pod" (dict "root" $root "group" . "role" "worker" "component" $component) | nindent 6 }}
  {{- end }}
{{- end -}}
