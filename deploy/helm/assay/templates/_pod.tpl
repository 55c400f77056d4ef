{{/* The pod of the server, which the StatefulSet and the Deployment have in common: all but the volume data. */}}
{{- define "assay.pod" -}}
metadata:
  labels: {{- include "assay.labels" . | nindent 4 }}
    app.kubernetes.io/component: server
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "assay.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "assay.serviceAccount" . }}
  automountServiceAccountToken: false
  # The variables of a Service called assay, ASSAY_PORT and the like, would look like settings.
  enableServiceLinks: false
  securityContext: {{- include "assay.podSecurity" . | nindent 4 }}
  # More than shutdown-delay and shutdown-timeout together.
  terminationGracePeriodSeconds: {{ add .Values.shutdown.delaySeconds .Values.shutdown.timeoutSeconds 20 }}
  {{- with .Values.dnsConfig }}
  dnsConfig: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with default (include "assay.spread" . | fromYamlArray) .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: assay
      image: {{ include "assay.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      securityContext: {{- include "assay.containerSecurity" . | nindent 8 }}
      env:
        - name: ASSAY_CONFIG
          value: /etc/assay/config/assay.toml
        - name: ASSAY_LISTEN
          value: ":3000"
        # What machines request: without TLS and prefix, and from the start of the program.
        - name: ASSAY_METRICS_LISTEN
          value: ":9090"
        # Below the volume, whose root has an owner and a mode of its own, and is not empty.
        - name: ASSAY_DATA
          value: /data/assay
        - name: ASSAY_SHUTDOWN_DELAY
          value: {{ .Values.shutdown.delaySeconds }}s
        - name: ASSAY_SHUTDOWN_TIMEOUT
          value: {{ .Values.shutdown.timeoutSeconds }}s
        {{- range $setting, $file := .Values.secrets }}
        {{- if $file.existingSecret }}
        - name: ASSAY_{{ upper $setting }}
          value: /etc/assay/secrets/{{ $setting }}
        {{- end }}
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - name: ASSAY_TLS_CERT
          value: /etc/assay/tls/tls.crt
        - name: ASSAY_TLS_KEY
          value: /etc/assay/tls/tls.key
        {{- end }}
        {{- with .Values.bucket.existingSecret }}
        {{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
        - name: {{ . }}
          valueFrom:
            secretKeyRef:
              name: {{ $.Values.bucket.existingSecret }}
              key: {{ . }}
        {{- end }}
        {{- end }}
        {{- with .Values.env }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with .Values.envFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 3000
        - name: metrics
          containerPort: 9090
      # /livez answers from the start of the program, also while it moves the keys of an older store;
      # /readyz answers 200 after that, and 503 while the server stops.
      startupProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: {{ div (add .Values.startupSeconds 1) 2 }}
      livenessProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- with .Values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: data
          mountPath: /data
        - name: config
          mountPath: /etc/assay/config
          readOnly: true
        {{- if include "assay.secretFiles" . }}
        - name: secrets
          mountPath: /etc/assay/secrets
          readOnly: true
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - name: tls
          mountPath: /etc/assay/tls
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    {{- if include "assay.shared" . }}
    - name: data
      {{- include "assay.tier" . | nindent 6 }}
    {{- end }}
    - name: config
      configMap:
        name: {{ include "assay.fullname" . }}
    {{- with include "assay.secretFiles" . }}
    - name: secrets
      projected:
        # The owner is root, and the group that of the server (fsGroup).
        defaultMode: 0440
        sources: {{- . | nindent 10 }}
    {{- end }}
    {{- with .Values.tls.existingSecret }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{/* The volume of a server whose store is in a bucket: what it has can be read from the bucket again. */}}
{{- define "assay.tier" -}}
{{- with .Values.tier -}}
{{- if .storageClass -}}
ephemeral:
  volumeClaimTemplate:
    metadata:
      labels: {{- include "assay.selector" $ | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: {{ .storageClass }}
      resources:
        requests:
          storage: {{ .size }}
{{- else -}}
emptyDir:
  sizeLimit: {{ .size }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Servers that share a bucket are on different nodes, where there are enough. */}}
{{- define "assay.spread" -}}
{{- if include "assay.shared" . -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "assay.selector" . | nindent 6 }}
      app.kubernetes.io/component: server
  # In an update the pods of the new version are spread, whatever nodes those of the old one have.
  matchLabelKeys: [pod-template-hash]
{{- end -}}
{{- end }}
