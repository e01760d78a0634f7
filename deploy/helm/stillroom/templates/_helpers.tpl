{{- define "stillroom.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "stillroom.labels" -}}
app.kubernetes.io/name: stillroom
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "stillroom.selector" -}}
app.kubernetes.io/name: stillroom
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "stillroom.image" -}}
{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "stillroom.pod" -}}
automountServiceAccountToken: false
serviceAccountName: {{ include "stillroom.name" . }}
terminationGracePeriodSeconds: {{ .Values.gateway.drainSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "stillroom.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "stillroom.env" -}}
env:
  - {name: STILLROOM_HOME, value: /var/lib/stillroom}
  - {name: STILLROOM_GATEWAY__HOST, value: 0.0.0.0}
{{- if eq .Values.topology "vllm" }}
  - {name: STILLROOM_STUDENT__BASE_URL, value: "http://{{ include "stillroom.name" . }}-student:8000/v1"}
  - {name: STILLROOM_STUDENT__DISCOVER, value: "true"}
{{- else if eq .Values.topology "external" }}
  - {name: STILLROOM_STUDENT__BASE_URL, value: {{ .Values.student.url | quote }}}
{{- else if eq .Values.topology "fleet" }}
  - {name: STILLROOM_DISTILL__ARTIFACTS, value: {{ .Values.student.releases | quote }}}
  - name: STILLROOM_STUDENT__ADDRESS
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- range list "STILLROOM_STORE__URL" "STUDENT_API_KEY" }}
  # a pod without it does not start
  - name: {{ . }}
    valueFrom: {secretKeyRef: {name: {{ first $.Values.secrets }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- with .Values.secrets }}
envFrom:
{{- range . }}
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}
volumeMounts:
  - {name: settings, mountPath: /etc/stillroom, readOnly: true}
  - {name: home, mountPath: /var/lib/stillroom}
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "stillroom.gateway" -}}
- name: gateway
  image: {{ include "stillroom.image" (dict "root" . "image" .Values.image.gateway) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [--config, /etc/stillroom/stillroom.toml, gateway]
  ports:
    - {name: http, containerPort: 8080}
  readinessProbe:
    httpGet: {path: /readyz, port: http}
    periodSeconds: 2
  livenessProbe:
    httpGet: {path: /healthz, port: http}
    periodSeconds: 10
    failureThreshold: 6
  startupProbe:
    httpGet: {path: /healthz, port: http}
    periodSeconds: 2
    failureThreshold: 60
  resources: {{ toYaml .Values.gateway.resources | nindent 4 }}
  {{- include "stillroom.confined" . | nindent 2 }}
  {{- include "stillroom.env" . | nindent 2 }}
{{- end -}}

{{- define "stillroom.process" -}}
- name: {{ .command }}
  image: {{ include "stillroom.image" (dict "root" .root "image" .root.Values.image.worker) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: [--config, /etc/stillroom/stillroom.toml, {{ .command }}]
  resources: {{ toYaml .resources | nindent 4 }}
  {{- include "stillroom.confined" .root | nindent 2 }}
  {{- include "stillroom.env" .root | nindent 2 }}
{{- end -}}

{{- define "stillroom.volumes" -}}
- name: settings
  configMap: {name: {{ include "stillroom.name" . }}}
- name: tmp
  emptyDir: {}
{{- end -}}

{{- define "stillroom.claim" -}}
- metadata: {name: home}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .Values.storage.className }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: {storage: {{ .Values.storage.size }}}
{{- end -}}
