{{/*
What the release makes, each "true" or "". A toggle that is null is as the app says; without an app, a RayCluster.
*/}}
{{- define "fastserve.makesService" -}}
{{- include "fastserve.toggle" (list .Values.rayService.enabled (hasKey (fromYaml .Values.app) "serve")) -}}
{{- end -}}

{{- define "fastserve.makesJob" -}}
{{- $app := fromYaml .Values.app -}}
{{- include "fastserve.toggle" (list .Values.rayJob.enabled (or (hasKey $app "train") (hasKey $app "tune"))) -}}
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
