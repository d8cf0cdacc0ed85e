"""/v1/videos: jobs that outlive their request, the database and files that hold them, and downloads of byte ranges."""
