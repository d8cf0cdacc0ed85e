"""A pipeline's HTTP API, as the commands use it: finds the API, sends requests, and reads responses and errors.

Nothing here may parse flags or print results. A progress bar for a long request is the only output.
"""
