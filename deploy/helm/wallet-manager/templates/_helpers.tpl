{{- define "wallet-manager.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "wallet-manager.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "wallet-manager.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "wallet-manager.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "wallet-manager.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "wallet-manager.selectorLabels" -}}
app.kubernetes.io/name: wallet-manager
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wallet-manager.labels" -}}
{{ include "wallet-manager.selectorLabels" . }}
app.kubernetes.io/part-of: wallet-manager
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ include "wallet-manager.givenLabels" (list "commonLabels" .) }}
{{- end }}
{{- end }}

{{/* The same and those of a value, which win where both have one. Takes (list . value labels). */}}
{{- define "wallet-manager.labelsAnd" -}}
{{- $given := include "wallet-manager.givenLabels" (list (index . 1) (index . 2)) | fromYaml }}
{{- merge $given (include "wallet-manager.labels" (index . 0) | fromYaml) | toYaml }}
{{- end }}

{{/* Labels of a value, which may not take the place of those that things are found by. Takes (list value labels). */}}
{{- define "wallet-manager.givenLabels" -}}
{{- $own := "^(app\\.kubernetes\\.io/(name|component|instance|part-of|version|managed-by)|helm\\.sh/chart|wallet-manager\\.dev/.*)$" }}
{{- range $name := keys (index . 1) | sortAlpha }}
{{- if regexMatch $own $name }}
{{- fail (printf "%s sets the label %s, which is the chart's own: pods are found by it. Give yours another name." (index $ 0) $name) }}
{{- end }}
{{- end }}
{{- toYaml (index . 1) }}
{{- end }}

{{/* A reference to an image: by digest where one is given, else by tag. Takes (list image appVersion). */}}
{{- define "wallet-manager.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) }}
{{- end }}
{{- end }}
