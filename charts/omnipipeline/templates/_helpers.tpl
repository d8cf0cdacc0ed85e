{{/* The name of everything the chart makes: the release's, with the chart's name in it. */}}
{{- define "omnipipeline.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "omnipipeline.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "omnipipeline.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "omnipipeline.selectorLabels" -}}
app.kubernetes.io/name: omnipipeline-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What makes an object part of the CRD's upgrade, in the order that is given. */}}
{{- define "omnipipeline.crdHook" -}}
helm.sh/hook: pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Of the pod of `helm test`: no Service or Deployment of the operator must take it for its own. */}}
{{- define "omnipipeline.testLabels" -}}
app.kubernetes.io/name: omnipipeline-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "omnipipeline.labels" -}}
{{ include "omnipipeline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What the operator may do: look at pipelines and say how they are; look after their children. */}}
{{- define "omnipipeline.rules" -}}
- apiGroups: [omnipipeline.dev]
  resources: [omnipipelines]
  verbs: [get, list, watch]
- apiGroups: [omnipipeline.dev]
  resources: [omnipipelines/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, create, update]
# Each pipeline's Secret NAME-keys, by name: without list and watch, no Secret can be found whose name is not known.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
{{- end -}}
