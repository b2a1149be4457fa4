"""Webhooks: messages are signed, sent and retried."""
