{{/*
The pod template of a Ray node. Of a dict: root, group (head, or one of workers), role (head or worker) and component
(cluster, serve or train).
*/}}
{{- define "fastserve.pod" -}}
{{- $values := .root.Values -}}
{{- $name := include "fastserve.name" .root -}}
metadata:
  labels:
    {{- include "fastserve.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with .group.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .group.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "fastserve.podBasics" .root | nindent 2 }}
  {{- /* the autoscaler, in the head's pod, asks Kubernetes for pods; nothing else needs its token */}}
  automountServiceAccountToken: {{ and (eq .role "head") $values.autoscaling.enabled }}
  {{- with $values.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  {{- with .group.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - name: ray-{{ .role }}
      image: {{ .group.image | default (include "fastserve.image" .root) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      env: {{- include "fastserve.env" .root | nindent 8 }}
      ports:
        {{- if eq .role "head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
        - {name: serve, containerPort: {{ include "fastserve.port" .root }}}
        - {name: metrics, containerPort: 8080}
      resources:
        limits: {{- toYaml .group.resources | nindent 10 }}
        requests: {{- toYaml .group.resources | nindent 10 }}
      securityContext: {{- toYaml $values.securityContext | nindent 8 }}
      {{- include "fastserve.probes" . | nindent 6 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: cache, mountPath: /cache}
        {{- if $values.app }}
        - {name: app, mountPath: /etc/fastserve, readOnly: true}
        {{- end }}
        {{- range $at, $volume := $values.volumes }}
        - {name: volume-{{ $at }}, mountPath: {{ $volume.path }}, readOnly: {{ default false $volume.readOnly }}}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .group.shm }}}
    - name: cache
      {{- if $values.cache.enabled }}
      persistentVolumeClaim: {claimName: {{ default (printf "%s-cache" $name) $values.cache.existingClaim }}}
      {{- else }}
      emptyDir: {}
      {{- end }}
    {{- if $values.app }}
    - name: app
      configMap: {name: {{ $name }}-app}
    {{- end }}
    {{- range $at, $volume := $values.volumes }}
    - name: volume-{{ $at }}
      persistentVolumeClaim: {claimName: {{ $volume.claim }}, readOnly: {{ default false $volume.readOnly }}}
    {{- end }}
{{- end -}}

{{/* What pods of Ray and the submitter of a job share. */}}
{{- define "fastserve.podBasics" -}}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The root is read-only: what libraries write goes to /tmp and /cache. */}}
{{- define "fastserve.env" -}}
- {name: HOME, value: /tmp}
- {name: HF_HOME, value: /cache/huggingface}
- {name: FASTSERVE_CACHE, value: /cache/fastserve}
- {name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, value: "fastserve_ray.serve.proxy:middlewares"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "2"}
- {name: RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S, value: "20"}
- {name: RAY_SERVE_PROXY_USE_GRPC, value: "1"}
- {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range .Values.secretEnv }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end }}
{{- end -}}

{{/*
Ray's agent (port 52365) says whether the raylet lives, and on the head the GCS; it asks for no token. A worker of a
RayService is ready when its Serve proxy is, which is so while it has a replica: Serve's Service leaves out the others.
*/}}
{{- define "fastserve.probes" -}}
{{- $node := dict "path" "/api/healthz" "port" 52365 -}}
{{- $proxy := dict "path" "/-/healthz" "port" (include "fastserve.port" .root | int) -}}
{{- $serves := and (eq .component "serve") (eq .role "worker") -}}
{{- range $probe, $asked := dict "startup" $node "readiness" (ternary $proxy $node $serves) "liveness" $node }}
{{ $probe }}Probe:
  httpGet: {{- toYaml $asked | nindent 4 }}
  {{- toYaml (get $.root.Values.probes $probe) | nindent 2 }}
{{- end }}
{{- end -}}
