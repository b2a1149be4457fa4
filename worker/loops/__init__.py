"""Loops that each run as a process: relay, reaper, scheduler."""
