"""Payments of many tenants."""
