"""What a text must look like: schemas, patterns and grammars, and the matchers that hold a text to them."""
