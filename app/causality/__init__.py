"""Causal tokens on their way: through HTTP, Redis and messages. See docs/replicas.md."""
