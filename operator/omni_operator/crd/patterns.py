"""The patterns and reserved names that the types and the rules share. Pure."""

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
CLAIM = r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]+)?"
IMAGE = (
    r"oci://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
    r"(:[A-Za-z0-9_][-A-Za-z0-9._]*(@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})"
)
MODEL_SOURCE = (
    r"^(builtin://[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"|hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*"
    rf"|{CLAIM}"
    rf"|{IMAGE}"
    r"|/[^\s]+)$"
)
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
SIZE = (
    r"^([1-9][0-9]*(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?"
    r"|0\.[0-9]*[1-9][0-9]*(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi))$"
)
"""A quantity above zero, for the API server."""
PERCENT = r"^(100|[1-9]?[0-9])%$"
QUALIFIED_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
DURATION = r"^[1-9][0-9]*(ms|s|m|h)$"
ORIGIN = r"^(\*|https?://[^/\s]+)$"
PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
API_URL = (
    r"^https?://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    rf"(:{PORT})?(/[-A-Za-z0-9._~!$&'()*+,;=:@%/]*)?$"
)
HOSTNAME = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
HEAD = "head"
"""Reserved: no stage may have this name."""
LORA_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LORA_SOURCE = rf"^(hf://[^/@]+/[^/@]+(@.+)?|{CLAIM}|{IMAGE}|/.+)$"
