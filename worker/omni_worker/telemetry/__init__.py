"""What a process reports about itself: metrics, log lines, traces, and a log line for each request.

It records; it must not change what happens to a request.
"""
