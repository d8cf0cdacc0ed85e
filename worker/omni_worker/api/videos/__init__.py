"""/v1/videos: jobs that outlive their request, the database that stores them and their files, and range downloads."""
