"""Loops that each run as a process: relay, reaper, scheduler.

The other two are beside what they work on: `worker/webhooks/notifier.py` and `worker/bulk/conductor.py`.
"""
