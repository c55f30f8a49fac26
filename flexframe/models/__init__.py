"""Whole models: a tokenizer, a generator, a codec; what they are built from, hash to and cost."""
