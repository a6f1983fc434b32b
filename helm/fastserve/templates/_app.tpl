{{/* The app's YAML as JSON, for fromJson; {} without one. */}}
{{- define "fastserve.app" -}}
{{- $app := fromYaml .Values.app -}}
{{- if hasKey $app "Error" -}}
{{- fail (printf "app is not the YAML of an app: %v" $app.Error) -}}
{{- end -}}
{{- toJson $app -}}
{{- end -}}

{{/*
What the release makes, each "true" or "". A toggle that is null is as the app says; without an app, a RayCluster.
*/}}
{{- define "fastserve.makesService" -}}
{{- include "fastserve.toggle" (list .Values.rayService.enabled (hasKey (include "fastserve.app" . | fromJson) "serve")) -}}
{{- end -}}

{{- define "fastserve.makesJob" -}}
{{- include "fastserve.toggle" (list .Values.rayJob.enabled (ne (include "fastserve.lastStage" .) "")) -}}
{{- end -}}

{{- define "fastserve.makesCluster" -}}
{{- $other := or (include "fastserve.makesService" .) (include "fastserve.makesJob" .) -}}
{{- include "fastserve.toggle" (list .Values.rayCluster.enabled (not $other)) -}}
{{- end -}}

{{- define "fastserve.toggle" -}}
{{- $chosen := index . 0 -}}
{{- if kindIs "bool" $chosen -}}
{{- if $chosen }}true{{ end -}}
{{- else if index . 1 -}}
true
{{- end -}}
{{- end -}}

{{/* The last stage before serving: what has data is verified. */}}
{{- define "fastserve.lastStage" -}}
{{- $app := include "fastserve.app" . | fromJson -}}
{{- if hasKey $app "data" }}verify{{ else if $app.compress }}compress{{ end -}}
{{- end -}}

{{- define "fastserve.entrypoint" -}}
{{- if .Values.rayJob.entrypoint -}}
{{- .Values.rayJob.entrypoint -}}
{{- else -}}
{{- $stage := include "fastserve.lastStage" . -}}
{{- if not $stage -}}
{{- fail "rayJob has nothing to do: it needs rayJob.entrypoint, or an app with data: --set-file app=app.yaml" -}}
{{- end -}}
fastserve run /etc/fastserve/app.yaml --set cluster.address=auto
{{- if hasKey (include "fastserve.app" . | fromJson) "serve" }} --until {{ $stage }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "fastserve.runtimeEnv" -}}
{{- $app := include "fastserve.app" . | fromJson -}}
{{- with .Values.rayJob.runtimeEnv | default (dig "cluster" "runtime_env" dict $app) }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* As `fastserve render serve-config` writes it: the builder gets the whole app, and finds what its run has verified. */}}
{{- define "fastserve.serveConfig" -}}
{{- if .Values.rayService.serveConfig -}}
{{- toYaml .Values.rayService.serveConfig -}}
{{- else -}}
{{- $app := include "fastserve.app" . | fromJson -}}
{{- if not (hasKey $app "serve") -}}
{{- fail "rayService has nothing to serve: it needs rayService.serveConfig, or an app with a section serve" -}}
{{- end -}}
{{- $serve := default dict $app.serve -}}
{{- $quiet := dict "log_level" "WARNING" "enable_access_log" false -}}
{{- $cluster := default dict $app.cluster -}}
{{- $built := dict
  "name" (default $app.name $serve.model_name)
  "route_prefix" (default "/" $serve.route_prefix)
  "import_path" "fastserve_ray.serve.builder:build"
  "args" (dict "app" (merge (dict "cluster" (merge (dict "address" "auto") $cluster)) $app))
  "logging_config" $quiet -}}
{{- with $cluster.runtime_env }}{{ $_ := set $built "runtime_env" . }}{{ end -}}
{{- toYaml (dict
  "proxy_location" "EveryNode"
  "http_options" (dict "host" "0.0.0.0" "port" 8000)
  "logging_config" $quiet
  "applications" (list $built)) -}}
{{- end -}}
{{- end -}}

{{/* An app that says more than the chart reads in it is refused: `fastserve render helm-values` reads all of it. */}}
{{- define "fastserve.checkApp" -}}
{{- if and .Values.app (kindIs "invalid" .Values.workers) -}}
{{- $app := include "fastserve.app" . | fromJson -}}
{{- $cluster := default dict $app.cluster -}}
{{- if not (regexMatch "^(/|[a-z][a-z0-9]+://)" (default "" $app.storage)) -}}
{{- fail (printf "storage: %v is no place that all pods see; allowed: a URI such as s3://bucket/runs, or a path on a volume" $app.storage) -}}
{{- end -}}
{{- range tuple "available_node_types" "fault_tolerance" "image" "kubernetes" "secrets" -}}
{{- if hasKey $cluster . -}}
{{- fail (printf "the app has cluster.%s: take the values that `fastserve render helm-values app.yaml` writes" .) -}}
{{- end -}}
{{- end -}}
{{- if contains "${env:" .Values.app -}}
{{- fail "the app reads its environment with ${env:}: take the values that `fastserve render helm-values app.yaml` writes" -}}
{{- end -}}
{{- end -}}
{{- end -}}
