"""/v1/images: generating and editing images, their schemas and stream; image files to arrays and back."""
