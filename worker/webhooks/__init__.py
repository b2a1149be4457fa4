"""Webhooks: messages signed, sent and retried."""
