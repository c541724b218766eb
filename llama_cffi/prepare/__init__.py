"""One pass from what was asked to what is computed: checked, rendered, tokenized and compiled, for one model."""
