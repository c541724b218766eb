"""Constraints of texts: schemas, patterns and grammars, and the matchers that enforce them."""
