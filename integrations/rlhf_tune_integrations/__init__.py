"""Adapters of frameworks and libraries; import the one you need."""
