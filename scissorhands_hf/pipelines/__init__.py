"""The diffusers door: remove a concept from a text-to-image pipeline."""
