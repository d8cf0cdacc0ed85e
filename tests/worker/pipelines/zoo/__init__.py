"""Tiny random pipelines of diffusers' own classes, built offline from their own components: one `Specimen` a class."""
