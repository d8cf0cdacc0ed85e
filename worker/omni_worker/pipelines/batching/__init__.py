"""Model calls of many requests in one forward: keys, merging, splitting, and the proof that the result is right.

It knows calls and tensors. It must not know pipelines, prompts or requests.
"""
