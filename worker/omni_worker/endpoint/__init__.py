"""The head's client for a server outside the pipeline that is a stage: any that speaks OpenAI's API. It asks only the
configured URL. It knows nothing about other stages, replicas or how requests are routed.
"""
