{{/* The name of the application, and of all objects of a release. */}}
{{- define "assay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "assay.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "assay.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "assay.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "assay.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "assay.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What selects the server. It must never change: selectors are immutable. */}}
{{- define "assay.selector" -}}
app.kubernetes.io/name: {{ include "assay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "assay.labels" -}}
{{ include "assay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "assay.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "assay.scheme" -}}
{{ ternary "https" "http" (ne .Values.tls.existingSecret "") }}
{{- end }}

{{- define "assay.port" -}}
{{ default (ternary 443 80 (ne .Values.tls.existingSecret "")) .Values.service.port }}
{{- end }}

{{/* The URL of the Service, which clients in the cluster use. The cluster's domain is not known here. */}}
{{- define "assay.url" -}}
{{- $port := include "assay.port" . -}}
{{- $scheme := include "assay.scheme" . -}}
{{ $scheme }}://{{ include "assay.fullname" . }}.{{ .Release.Namespace }}.svc
{{- if ne $port (ternary "443" "80" (eq $scheme "https")) }}:{{ $port }}{{ end }}
{{- dig "prefix" "" .Values.config }}
{{- end }}

{{/* assay.toml. A JSON string is a TOML string. */}}
{{- define "assay.config" -}}
{{- range $key, $value := .Values.config }}
{{ $key }} = {{ if kindIs "string" $value }}{{ toJson $value }}{{ else if kindIs "bool" $value }}{{ $value }}{{ else }}{{ int64 $value }}{{ end }}
{{- end }}
{{- end }}

{{/* An error if the container may use too little memory: what docs/operations.md says, with a tenth to
spare. */}}
{{- define "assay.checkMemory" -}}
{{- $limit := dig "limits" "memory" "" (default dict .Values.resources) -}}
{{- if $limit -}}
{{- $mebibytes := ternary (mul 1024 (trimSuffix "Gi" $limit | int64)) (trimSuffix "Mi" $limit | int64) (hasSuffix "Gi" $limit) -}}
{{- $budget := dig "memory_budget" 256 .Values.config | int64 -}}
{{- if lt (div (mul $mebibytes 9) 10) (div (mul (add $budget 32) 5) 4) -}}
{{- fail (printf "resources.limits.memory is %s, too little for config.memory_budget %d; see docs/operations.md, Memory" $limit $budget) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* An error if a setting is in config and in a Secret: the variable would overrule the file without a
word. */}}
{{- define "assay.checkSecrets" -}}
{{- range $setting, $file := .Values.secrets -}}
{{- $value := trimSuffix "_file" $setting -}}
{{- if and $file.existingSecret (hasKey $.Values.config $value) -}}
{{- fail (printf "secrets.%s and config.%s are both set; remove one of them" $setting $value) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What every container of the chart may do: nothing but run. */}}
{{- define "assay.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end }}

{{/* fsGroup makes the volume and the files of Secrets readable for the user of the image. */}}
{{- define "assay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The sources of the volume with the files of secrets; empty if there is none. */}}
{{- define "assay.secretFiles" -}}
{{- range $setting, $file := .Values.secrets }}
{{- if $file.existingSecret }}
- secret:
    name: {{ $file.existingSecret }}
    items:
      - key: {{ $file.key }}
        path: {{ $setting }}
{{- end }}
{{- end }}
{{- end }}
