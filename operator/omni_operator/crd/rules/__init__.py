"""The rules across the fields of an `OmniPipeline`, in two languages. Pure.

The types in `spec` check single fields. Each rule here is a function that yields every problem it finds, below the same
rule in CEL, which the schema gives to the API server. So the server rejects at once what the operator, and `omni up`,
would reject. A problem names the field, its value, and what to do. What CEL cannot say has no validation.
"""
