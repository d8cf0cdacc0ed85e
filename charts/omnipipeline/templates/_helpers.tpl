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

{{/* What tells the chart's objects from those of another copy: the release, and for a dependency with an alias that too. */}}
{{- define "omnipipeline.instance" -}}
{{- eq .Chart.Name "omnipipeline" | ternary .Release.Name (include "omnipipeline.fullname" .) -}}
{{- end -}}

{{- define "omnipipeline.selectorLabels" -}}
app.kubernetes.io/name: omnipipeline-operator
app.kubernetes.io/instance: {{ include "omnipipeline.instance" . | quote }}
{{- end -}}

{{/* An image of the chart, given as (list root image): from the registry of global.imageRegistry if that is set, with the
tag, which is the chart's appVersion by default, or with the digest. */}}
{{- define "omnipipeline.image" -}}
{{- $root := first . -}}
{{- $image := last . -}}
{{- $repository := $image.repository -}}
{{- with ($root.Values.global).imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- $hasRegistry := and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) ($hasRegistry | ternary (rest $parts) $parts | join "/") -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s%s@%s" $repository ($image.tag | empty | ternary "" (printf ":%s" $image.tag)) $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object, given as (list root labels): the chart's, and over them those of the values. */}}
{{- define "omnipipeline.labelsWith" -}}
{{- merge (deepCopy (last . | default dict)) (include "omnipipeline.labels" (first .) | fromYaml) | toYaml -}}
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
app.kubernetes.io/instance: {{ include "omnipipeline.instance" . | quote }}
{{- end -}}

{{- define "omnipipeline.labels" -}}
{{ include "omnipipeline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{/* The settings of every pod of the chart: where it runs, and as whom. The user is the image's, or the cluster's. */}}
{{- define "omnipipeline.pod" -}}
automountServiceAccountToken: true
enableServiceLinks: false
{{- /* Charts disagree on the form of global.imagePullSecrets: names, or references. */}}
{{- $secrets := list }}
{{- range concat .Values.imagePullSecrets (($.Values.global).imagePullSecrets | default list) }}
{{- $secrets = append $secrets (kindIs "map" . | ternary . (dict "name" .)) }}
{{- end }}
{{- with $secrets | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
volumes:
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- end -}}

{{/* The environment of every container: the proxies, and then `env`, which overrides them. The API server and Services are
never reached through a proxy. */}}
{{- define "omnipipeline.env" -}}
{{- $variables := list }}
{{- with .Values.proxy }}
{{- if or .http .https }}
{{- $own := list "localhost" "127.0.0.1" "::1" ".svc" ".svc.cluster.local" "$(KUBERNETES_SERVICE_HOST)" }}
{{- range $name, $value := dict "HTTP_PROXY" .http "HTTPS_PROXY" .https "NO_PROXY" (concat $own .exceptions | join ",") }}
{{- if $value }}
{{- $variables = append $variables (dict "name" $name "value" $value) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $named := list }}
{{- range .Values.env }}{{ $named = append $named .name }}{{ end }}
{{- range $variables }}{{ if not (has .name $named) }}
{{ list . | toYaml }}
{{- end }}{{ end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The settings of every container of the chart. */}}
{{- define "omnipipeline.container" -}}
image: {{ include "omnipipeline.image" (list . .Values.image) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with include "omnipipeline.env" . }}
env:
  {{- . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
- name: tmp
  mountPath: /tmp
{{- end -}}

{{/* What the operator may do: read pipelines and write their status; read, write and delete their children. */}}
{{- define "omnipipeline.rules" -}}
- apiGroups: [omnipipeline.dev]
  resources: [omnipipelines]
  verbs: [get, list, watch]
- apiGroups: [omnipipeline.dev]
  resources: [omnipipelines/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments, daemonsets]
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
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# Each pipeline's Secret NAME-keys-…. No Secret can be read, changed or deleted.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
{{- end -}}

{{/* The Lease of one name, in one namespace. A right to create cannot be limited to a name. */}}
{{- define "omnipipeline.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ . }}]
  verbs: [get, update]
{{- end -}}
