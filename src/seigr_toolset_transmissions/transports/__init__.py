"""Transports: what carries bytes between two nodes. They know nothing of what the bytes mean."""
