"""A request for a job, and the jobs that are there."""

ASK = {"text": "The meeting is on Tuesday.", "questions": ["When is the meeting?"]}
