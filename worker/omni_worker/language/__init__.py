"""Language models: any `AutoModelForCausalLM`, run for many requests at once over a cache of slots."""
