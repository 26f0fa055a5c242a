"""Pricing: measures the models of submitted orders, and prices or rejects the orders.

See docs/explanation/pricing.md.
"""
