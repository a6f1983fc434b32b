{{/* The spec of a Ray cluster. Of a dict: root and component (cluster, serve or train). */}}
{{- define "fastserve.cluster" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := .root.Values -}}
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
  {{- if .redis.passwordSecret.name }}
  redisPassword:
    valueFrom:
      secretKeyRef: {{- toYaml .redis.passwordSecret | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
headGroupSpec:
  rayStartParams: {{- toYaml $values.head.rayStartParams | nindent 4 }}
  template: {{- include "fastserve.pod" (dict "root" $root "group" $values.head "role" "head" "component" $component) | nindent 4 }}
workerGroupSpecs:
  {{- range $values.workers }}
  {{- if or (gt (int .minReplicas) (int .replicas)) (gt (int .replicas) (int .maxReplicas)) }}
  {{- fail (printf "workers %s: minReplicas %v <= replicas %v <= maxReplicas %v is not so" .name .minReplicas .replicas .maxReplicas) }}
  {{- end }}
  - groupName: {{ .name }}
    replicas: {{ .replicas }}
    minReplicas: {{ .minReplicas }}
    maxReplicas: {{ .maxReplicas }}
    rayStartParams: {{- toYaml (default dict .rayStartParams) | nindent 6 }}
    template: {{- include "fastserve.pod" (dict "root" $root "group" . "role" "worker" "component" $component) | nindent 6 }}
  {{- end }}
{{- end -}}
