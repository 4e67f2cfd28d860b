"""What a language model still knows of a forget set, and whether it still speaks: figures as the benchmarks define them."""
