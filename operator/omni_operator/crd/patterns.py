"""The patterns and reserved names that the types and the rules share. Pure."""

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
MODEL_SOURCE = (
    r"^(builtin://[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"|hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]+)?"
    r"|/[^\s]+)$"
)
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
PERCENT = r"^(100|[1-9]?[0-9])%$"
QUALIFIED_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
DURATION = r"^[1-9][0-9]*(ms|s|m|h)$"
ORIGIN = r"^(\*|https?://[^/\s]+)$"
HEAD = "head"
"""Reserved: no stage may have this name."""
