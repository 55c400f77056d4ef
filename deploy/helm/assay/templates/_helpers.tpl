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
{{- if and (include "assay.shared" .) (not (hasKey .Values.config "disk_limit")) }}
disk_limit = "{{ include "assay.tierLimit" . }}MiB"
{{- end }}
{{- end }}

{{/* A size in MiB, rounded down: a quantity of Kubernetes, or a size as in docs/configuration.md. */}}
{{- define "assay.mebibytes" -}}
{{- $units := dict "" 1048576 "b" 1 "kb" 1000 "mb" 1000000 "gb" 1000000000 "tb" 1000000000000 "kib" 1024 "mib" 1048576 "gib" 1073741824 "tib" 1099511627776 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" . -}}
{{- $unit := trimPrefix $number . | trim | lower -}}
{{- divf (mulf $number (get $units $unit)) 1048576 | floor | int64 -}}
{{- end }}

{{/* The disk limit of local copies, in MiB: the volume less a tenth for the file system, and less the largest zip, which
may exceed the limit while it arrives. */}}
{{- define "assay.tierLimit" -}}
{{- $limit := sub (div (mul 9 (include "assay.mebibytes" .Values.tier.size | int64)) 10) 512 -}}
{{- if lt $limit 1024 -}}
{{- fail (printf "tier.size is %s, too small: it must hold copies of 1Gi, a zip of 512Mi that arrives, and a tenth for the file system; set it to 2Gi or more" .Values.tier.size) -}}
{{- end -}}
{{- $limit -}}
{{- end }}

{{/* An error if the volume is smaller than the data directory may become. */}}
{{- define "assay.checkDisk" -}}
{{- $limit := dig "disk_limit" "0" .Values.config -}}
{{- $name := ternary "tier.size" "persistence.size" (ne (include "assay.shared" .) "") -}}
{{- $size := ternary .Values.tier.size .Values.persistence.size (eq $name "tier.size") -}}
{{- if gt (add 512 (include "assay.mebibytes" $limit | int64)) (include "assay.mebibytes" $size | int64) -}}
{{- if ne (include "assay.mebibytes" $limit) "0" -}}
{{- fail (printf "config.disk_limit is %s and %s is %s: the volume must also hold a zip of 512Mi that arrives; lower the limit, or make the volume larger" $limit $name $size) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* An error if the servers need an own log and could not sign it, or if there is a key that they do not use. */}}
{{- define "assay.checkLog" -}}
{{- $config := .Values.config -}}
{{- $key := .Values.secrets.log_key.existingSecret -}}
{{- if not (include "assay.shared" .) -}}
{{- if $key -}}
{{- fail "secrets.log_key is for servers that share a bucket, and a server alone makes the key of its log in its volume; set config.store without config.single_replica, or remove secrets.log_key" -}}
{{- end -}}
{{- else if not $key -}}
{{- range list "private" "access" "unified" -}}
{{- if get $config . -}}
{{- fail (printf "config.%s needs an own log, which servers that share a bucket have with secrets.log_key; make its key and the log once with assay log create, see docs/kubernetes.md" .) -}}
{{- end -}}
{{- end -}}
{{- else if not (or (get $config "log_guard") (get $config "log_trust_bucket")) -}}
{{- fail "secrets.log_key needs config.log_guard: the data directory of a pod ends with it, so a new pod cannot see whether the bucket was set back, and signs nothing; name another bucket, or say config.log_trust_bucket=true for one start, see docs/replicas.md" -}}
{{- end -}}
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

{{/* Not empty if several servers may use the store: it is in a bucket, and no setting says that there is one server. A
server alone has its own log in the data directory, which a volume must keep. */}}
{{- define "assay.shared" -}}
{{- if and (dig "store" "" .Values.config) (not (dig "single_replica" false .Values.config)) }}yes{{ end -}}
{{- end }}

{{/* An error if there would be several servers, and they cannot share a store. */}}
{{- define "assay.checkReplicas" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if not (dig "store" "" .Values.config) -}}
{{- fail (printf "replicas is %d, but the store in a volume has one server; set config.store to a bucket that the servers share, see docs/replicas.md, or set replicas to 1" (int .Values.replicas)) -}}
{{- end -}}
{{- if dig "single_replica" false .Values.config -}}
{{- fail (printf "replicas is %d, but config.single_replica says that no other server uses the bucket; remove one of them" (int .Values.replicas)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The port of the object store in a URL like that of config.store; empty if it is no such URL. */}}
{{- define "assay.bucketPort" -}}
{{- if hasPrefix "s3://" . -}}
{{- $endpoint := "https://s3" -}}
{{- if regexMatch "[?&]endpoint=." . -}}
{{- $endpoint = regexReplaceAll "^.*[?&]endpoint=([^&]+).*$" . "${1}" | replace "%3A" ":" | replace "%3a" ":" | replace "%2F" "/" | replace "%2f" "/" -}}
{{- end -}}
{{- $url := urlParse $endpoint -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end -}}
{{- end }}

{{/* The ports of upstreams, of code hosts and of object stores, as a JSON array. */}}
{{- define "assay.egressPorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.egressPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- range list "store" "log_guard" -}}
{{- with include "assay.bucketPort" (dig . "" $.Values.config) }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}
