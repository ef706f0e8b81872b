{{/* Labels of every object. */}}
{{- define "sluice.labels" -}}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* What selects the operator's pods. */}}
{{- define "sluice.operatorSelector" -}}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/component: operator
{{- end }}

{{/* What selects the pods of all groups. The operator sets the labels of group and environment. */}}
{{- define "sluice.dataplaneSelector" -}}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/component: dataplane
{{- end }}

{{- define "sluice.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The user names that the API server knows our service accounts by. */}}
{{- define "sluice.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:sluice-operator
{{- end }}
{{- define "sluice.dataplaneUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:sluice-dataplane
{{- end }}

{{/* The restricted profile. */}}
{{- define "sluice.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "sluice.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A token for the operator's artifact servers: it opens nothing else. */}}
{{- define "sluice.artifactsToken" -}}
name: artifacts-token
projected:
  sources:
    - serviceAccountToken:
        audience: sluice-artifacts
        expirationSeconds: 3600
        path: token
{{- end }}
