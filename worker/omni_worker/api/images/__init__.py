"""/v1/images: generations and edits, their schemas and event stream; images from bytes to pixels and back."""
