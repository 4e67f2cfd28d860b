"""Is a concept gone from a pipeline's weights, or do its words only lead elsewhere? Attacks that tell."""
