{{/* The name of everything; KubeRay adds up to 16 characters to it. */}}
{{- define "fastserve.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects every pod of this release. */}}
{{- define "fastserve.selector" -}}
app.kubernetes.io/part-of: fastserve
app.kubernetes.io/instance: {{ include "fastserve.name" . }}
{{- end -}}

{{/* Labels of the chart's own objects. */}}
{{- define "fastserve.labels" -}}
{{ include "fastserve.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* A digest alone is enough; with neither tag nor digest, the chart's version. */}}
{{- define "fastserve.image" -}}
{{- $image := .Values.image -}}
{{- $tag := $image.tag | default (ternary "" .Chart.AppVersion (ne $image.digest "")) -}}
{{ $image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Where Serve answers: a Service that KubeRay makes, and moves to the new cluster in an upgrade. */}}
{{- define "fastserve.endpoint" -}}
{{ include "fastserve.name" . }}-serve-svc
{{- end -}}

{{/* The port of the endpoint, in every pod: Serve's proxies listen on it. */}}
{{- define "fastserve.port" -}}
{{- dig "http_options" "port" 8000 .Values.rayService.serveConfig -}}
{{- end -}}

{{- define "fastserve.redisAddress" -}}
{{- default (printf "%s-redis:6379" (include "fastserve.name" .)) .Values.gcsFaultTolerance.redis.address -}}
{{- end -}}

{{- define "fastserve.ownsRedis" -}}
{{- if and .Values.gcsFaultTolerance.enabled (not .Values.gcsFaultTolerance.redis.address) }}true{{ end -}}
{{- end -}}
